"""Makes src/llm_server/data/analysis.bin from data/routing, with the standard library alone, byte for byte."""
