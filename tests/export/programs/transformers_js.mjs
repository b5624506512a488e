// transformers.js in Node, from a local folder.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { env, pipeline } from "@huggingface/transformers";

const [folder, file] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder) + "/";
const embed = await pipeline("feature-extraction", basename(folder));
const vectors = [];
for (const text of JSON.parse(readFileSync(file, "utf8")))
  vectors.push(...(await embed([text], { pooling: "mean", normalize: true })).tolist());
console.log(JSON.stringify(vectors));
