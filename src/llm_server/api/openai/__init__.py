"""The OpenAI dialect under `/v1`: the service of `/api/v1`, in the words of OpenAI's API."""
