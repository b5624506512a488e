import OpenAI from "openai";

const client = new OpenAI({baseURL: `${process.env.URL}/v1`, apiKey: process.env.KEY, maxRetries: 0});
const input = JSON.parse(process.env.TEXTS);
const models = await client.models.list();
const answer = await client.embeddings.create({model: models.data[0].id, input});
console.log(JSON.stringify({vectors: answer.data.map(item => Array.from(item.embedding))}));
