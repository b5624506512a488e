import {InferenceClient} from "@huggingface/inference";

const client = new InferenceClient(process.env.KEY, {endpointUrl: process.env.URL});
const vectors = await client.featureExtraction({inputs: JSON.parse(process.env.TEXTS)});
console.log(JSON.stringify({vectors}));
