// anthropic-sdk-typescript: streamed turns whose blocks go back as they are, a count of tokens, a whole answer.
import fs from 'node:fs';
import { execSync } from 'node:child_process';
import Anthropic from '@anthropic-ai/sdk';

const { BASE_URL, MODEL: model, TASK, PICTURE } = process.env;
const client = new Anthropic({ baseURL: BASE_URL, apiKey: 'unused' });
const functions = {
  read_file: [['path'], (a) => fs.readFileSync(a.path, 'utf8')],
  write_file: [['path', 'content'], (a) => (fs.writeFileSync(a.path, a.content), 'ok')],
  edit_file: [['path', 'old_string', 'new_string'], (a) => {
    fs.writeFileSync(a.path, fs.readFileSync(a.path, 'utf8').replace(a.old_string, a.new_string));
    return 'ok';
  }],
  bash: [['command'], (a) => execSync(a.command).toString()],
};
const tools = Object.entries(functions).map(([name, [names]]) => ({
  name,
  description: name,
  input_schema: {
    type: 'object', properties: Object.fromEntries(names.map((one) => [one, { type: 'string' }])), required: names,
  },
}));
const content = [{ type: 'text', text: TASK }];
if (PICTURE) {
  const source = { type: 'base64', media_type: 'image/png', data: PICTURE.split(',')[1] };
  content.push({ type: 'image', source });
}
const messages = [{ role: 'user', content }];
const counted = await client.messages.countTokens({ model, messages, tools });
if (!(counted.input_tokens > 0)) throw new Error(JSON.stringify(counted));
for (let step = 0; step < 8; step++) {
  const stream = client.messages.stream({ model, max_tokens: 2048, system: 'You are a helper.', messages, tools });
  const message = await stream.finalMessage();
  messages.push({ role: 'assistant', content: message.content });
  if (message.stop_reason !== 'tool_use') {
    console.log(message.content.map((block) => block.text ?? '').join(''));
    break;
  }
  const uses = message.content.filter((block) => block.type === 'tool_use');
  const results = uses.map(({ id, name, input }) => ({
    type: 'tool_result', tool_use_id: id, content: functions[name][1](input),
  }));
  messages.push({ role: 'user', content: results });
}
const whole = await client.messages.create({ model, max_tokens: 512, messages: messages.slice(0, 1) });
if (whole.type !== 'message' || !whole.content.length) throw new Error(JSON.stringify(whole));
