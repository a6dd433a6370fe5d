"""Makes analysis.bin and word_rates.bin of src/llm_server/data from data/routing; all runs give the same bytes."""
