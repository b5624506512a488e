"""LangChain's OpenAIEmbeddings: with the setting that the service's message names, and what it gets without."""

import json
import os
from types import SimpleNamespace

import openai
import tiktoken
from langchain_openai import OpenAIEmbeddings

texts = json.loads(os.environ["TEXTS"])
options = {
    "model": "any",
    "base_url": f"{os.environ['URL']}/v1",
    "api_key": os.environ["KEY"],
    "max_retries": 0,
}
vectors = OpenAIEmbeddings(check_embedding_ctx_length=False, **options).embed_documents(texts)

# By default it sends ids of OpenAI's tokenizer, whose file tiktoken would fetch from the network.
ids = SimpleNamespace(encode=lambda text, **_: [9906, 1917], encode_ordinary=lambda text: [9906, 1917])
tiktoken.get_encoding = tiktoken.encoding_for_model = lambda _: ids
refused = ""
try:
    OpenAIEmbeddings(**options).embed_documents(texts)
except openai.BadRequestError as error:
    refused = str(error)
print(json.dumps({"vectors": vectors, "refused": refused}))
