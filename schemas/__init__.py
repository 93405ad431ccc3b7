"""All that crosses a process boundary: Avro schemas, topic definitions, SQL of the stores, codecs."""
