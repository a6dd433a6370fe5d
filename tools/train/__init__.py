"""Makes src/llm_server/data/analysis.bin from data/routing with the standard library; all runs give the same bytes."""
