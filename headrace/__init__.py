"""The spine of Headrace: what every service needs and no service owns.

Settings, errors, clock, logs, metrics, Kafka rules, the shard map, the embedded runtime and the CLI.
Importing it does nothing: no client, no logging set-up, no look at the environment.
"""

__version__ = "0.1.0"
