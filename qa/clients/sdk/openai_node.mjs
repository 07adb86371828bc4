// openai-node: chat completions with runTools, or (API=responses) streamed responses whose items go back as they are;
// then a whole answer and a parsed one.
import fs from 'node:fs';
import { execSync } from 'node:child_process';
import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const { BASE_URL, MODEL, TASK, PICTURE, API } = process.env;
const Verdict = z.object({ done: z.boolean(), note: z.string() });
const question = 'Your verdict?';
const check = (found) => {
  if (typeof found?.done !== 'boolean') throw new Error(`not parsed: ${JSON.stringify(found)}`);
  console.log(JSON.stringify(found));
};
const client = new OpenAI({ baseURL: BASE_URL + '/v1', apiKey: 'unused' });
const functions = {
  read_file: [['path'], (a) => fs.readFileSync(a.path, 'utf8')],
  write_file: [['path', 'content'], (a) => (fs.writeFileSync(a.path, a.content), 'ok')],
  edit_file: [['path', 'old_string', 'new_string'], (a) => {
    fs.writeFileSync(a.path, fs.readFileSync(a.path, 'utf8').replace(a.old_string, a.new_string));
    return 'ok';
  }],
  bash: [['command'], (a) => execSync(a.command).toString()],
};
const schema = (names) => ({
  type: 'object',
  properties: Object.fromEntries(names.map((name) => [name, { type: 'string' }])),
  required: names,
  additionalProperties: false,
});

if (API === 'responses') {
  const tools = Object.entries(functions).map(([name, [names]]) => ({
    type: 'function', name, description: name, parameters: schema(names), strict: true,
  }));
  const parts = [{ type: 'input_text', text: TASK }];
  if (PICTURE) parts.push({ type: 'input_image', image_url: PICTURE, detail: 'auto' });
  const input = [{ role: 'developer', content: 'You are a helper.' }, { role: 'user', content: parts }];
  for (let step = 0; step < 8; step++) {
    const stream = client.responses.stream({ model: MODEL, input, tools, store: false });
    for await (const event of stream) if (event.type === 'error') throw new Error(event.message);
    const response = await stream.finalResponse();
    if (response.status !== 'completed') throw new Error(`status ${response.status}`);
    input.push(...response.output);
    const calls = response.output.filter((item) => item.type === 'function_call');
    if (!calls.length) {
      console.log(response.output_text);
      break;
    }
    for (const call of calls) {
      const output = functions[call.name][1](JSON.parse(call.arguments));
      input.push({ type: 'function_call_output', call_id: call.call_id, output });
    }
  }
  const whole = await client.responses.create({ model: MODEL, input: [...input, { role: 'user', content: question }] });
  if (whole.status !== 'completed' || !whole.output_text) throw new Error(JSON.stringify(whole));
  const format = zodTextFormat(Verdict, 'verdict');
  const parsed = await client.responses.parse({ model: MODEL, input: question, text: { format }, store: false });
  check(parsed.output_parsed);
} else {
  const content = PICTURE
    ? [{ type: 'text', text: TASK }, { type: 'image_url', image_url: { url: PICTURE } }]
    : TASK;
  const runner = client.chat.completions.runTools({
    model: MODEL,
    stream: true,
    messages: [{ role: 'system', content: 'You are a helper.' }, { role: 'user', content }],
    tools: Object.entries(functions).map(([name, [names, run]]) => ({
      type: 'function',
      function: { name, description: name, function: run, parse: JSON.parse, parameters: schema(names), strict: true },
    })),
  });
  console.log(await runner.finalContent());
  const messages = [...runner.messages, { role: 'user', content: question }];
  const whole = await client.chat.completions.create({ model: MODEL, messages });
  if (!whole.choices[0].message.content) throw new Error(JSON.stringify(whole));
  const format = zodResponseFormat(Verdict, 'verdict');
  const parsed = await client.chat.completions.parse({ model: MODEL, messages, response_format: format });
  check(parsed.choices[0].message.parsed);
}
