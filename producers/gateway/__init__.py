"""The ingest gateway: HTTP requests of SDKs in, acknowledged Kafka records out.

Guarantees: a request is answered 200 only when Kafka has acknowledged each of its events with acks=all; one bad
event never condemns the others of its request; every wait and every byte held is bounded, past the bound the
answer is 503 with Retry-After. The tenant comes from the write key and from nothing else.
Layers: `protocols` turn a request into raw events, `normalise` turns those into rows, `publish` sends rows,
`receiver` is the path from request to answer, `app` puts it beside /livez, /readyz, /metrics and /openapi.json.
"""
