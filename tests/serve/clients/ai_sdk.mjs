import {createOpenAICompatible} from "@ai-sdk/openai-compatible";
import {embedMany} from "ai";

const provider = createOpenAICompatible({
  name: "jinabert", baseURL: `${process.env.URL}/v1`, apiKey: process.env.KEY,
});
const {embeddings} = await embedMany({
  model: provider.embeddingModel("any"), values: JSON.parse(process.env.TEXTS), maxRetries: 0,
});
console.log(JSON.stringify({vectors: embeddings}));
