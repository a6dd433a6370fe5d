// Send requests with OpenAI's Node library, all at once; print the answers. Arguments: the prompts.
import OpenAI from "openai";

const client = new OpenAI({ timeout: 2000 });

async function ask(prompt, place) {
  if (place % 2) {
    return (await client.responses.create({ model: "auto", input: prompt })).output_text;
  }
  const messages = [{ role: "user", content: prompt }];
  return (await client.chat.completions.create({ model: "auto", messages })).choices[0].message.content;
}

console.log(JSON.stringify(await Promise.all(process.argv.slice(2).map(ask))));
