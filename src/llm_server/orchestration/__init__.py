"""What happens to a prompt, from the first check to the stored answer; knows neither HTTP nor AWS nor SQLite."""
