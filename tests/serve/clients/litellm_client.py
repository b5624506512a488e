"""LiteLLM: embeddings of an OpenAI-compatible service; what it says of token ids."""

import json
import os

import litellm

texts = json.loads(os.environ["TEXTS"])
options = {
    "model": "openai/any",
    "api_base": f"{os.environ['URL']}/v1",
    "api_key": os.environ["KEY"],
    "max_retries": 0,
}
answer = litellm.embedding(input=texts, encoding_format="float", **options)
refused = ""
try:
    litellm.embedding(input=[[9906, 1917]], encoding_format="float", **options)
except litellm.BadRequestError as error:
    refused = str(error)
print(json.dumps({"vectors": [item["embedding"] for item in answer.data], "refused": refused}))
