"""Customer shards: the range map, its routers, and what is created through it (customers, write keys).

Owns the tables `shards`, `shard_map`, `customers`, `customer_deal` and `write_keys` of the control database.
Guarantees: the map covers every customer id exactly once; a change of it is a compare-and-set. Refuses to keep
credentials in the map: an address is `host:port/database`, user and password come from the settings.
"""
