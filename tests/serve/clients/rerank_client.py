"""Rerank through the clients of Cohere, LiteLLM, LangChain and LlamaIndex, with nothing set but the address."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices on the network

import cohere
import litellm
from langchain_cohere import CohereRerank
from langchain_community.document_compressors import jina_rerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank

url, key = os.environ["URL"], os.environ["KEY"]
texts = json.loads(os.environ["TEXTS"])
query = texts[0]
documents = [Document(text) for text in texts]
found = {}

client = cohere.ClientV2(api_key=key, base_url=url)
answer = client.rerank(model="any", query=query, documents=texts, top_n=2)
found["cohere"] = [(each.index, each.relevance_score) for each in answer.results]

for provider, base in (("cohere", f"{url}/v1/rerank"), ("jina_ai", f"{url}/v1/rerank")):
    answer = litellm.rerank(
        model=f"{provider}/any", query=query, documents=texts, top_n=2, api_base=base, api_key=key
    )
    found[f"litellm {provider}"] = [(each["index"], each["relevance_score"]) for each in answer.results]

compressor = CohereRerank(client=client, model="any", top_n=2)
ranked = compressor.compress_documents(documents, query)
found["langchain cohere"] = [
    (texts.index(each.page_content), each.metadata["relevance_score"]) for each in ranked
]

jina_rerank.JINA_API_URL = f"{url}/v1/rerank"  # it has no option for the address
compressor = jina_rerank.JinaRerank(jina_api_key=key, model="any", top_n=2)
ranked = compressor.compress_documents(documents, query)
found["langchain jina"] = [
    (texts.index(each.page_content), each.metadata["relevance_score"]) for each in ranked
]

reranker = JinaRerank(api_key=key, model="any", top_n=2, base_url=f"{url}/v1")
nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
ranked = reranker.postprocess_nodes(nodes, query_str=query)
found["llama_index jina"] = [(texts.index(each.node.text), each.score) for each in ranked]

print(json.dumps(found))
