// Vercel's AI SDK: streamText with tools, then an object by a schema. API=chat: openai-compatible; responses: @ai-sdk/openai.
import fs from 'node:fs';
import { execSync } from 'node:child_process';
import { generateObject, stepCountIs, streamText, tool } from 'ai';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { z } from 'zod';

const { BASE_URL, MODEL, TASK, PICTURE, API } = process.env;
const options = { baseURL: BASE_URL + '/v1', apiKey: 'unused' };
const model = API === 'responses'
  ? createOpenAI(options).responses(MODEL)
  : createOpenAICompatible({ ...options, name: 'proxy', includeUsage: true, supportsStructuredOutputs: true })
      .chatModel(MODEL);
const text = z.string();
const tools = {
  read_file: tool({
    description: 'read', inputSchema: z.object({ path: text }), execute: async (a) => fs.readFileSync(a.path, 'utf8'),
  }),
  write_file: tool({
    description: 'write',
    inputSchema: z.object({ path: text, content: text }),
    execute: async (a) => (fs.writeFileSync(a.path, a.content), { ok: true }),
  }),
  edit_file: tool({
    description: 'edit',
    inputSchema: z.object({ path: text, old_string: text, new_string: text }),
    execute: async (a) => {
      fs.writeFileSync(a.path, fs.readFileSync(a.path, 'utf8').replace(a.old_string, a.new_string));
      return { ok: true };
    },
  }),
  bash: tool({
    description: 'shell',
    inputSchema: z.object({ command: text, timeout: z.number().optional() }),
    execute: async (a) => execSync(a.command).toString(),
  }),
};
const content = [{ type: 'text', text: TASK }];
if (PICTURE) content.push({ type: 'image', image: PICTURE.split(',')[1], mediaType: 'image/png' });
const result = streamText({
  model,
  system: 'You are a helper.',
  messages: [{ role: 'user', content }],
  tools,
  stopWhen: stepCountIs(8),
  onError: ({ error }) => {
    console.error('error', error?.message ?? error);
    process.exitCode = 3;
  },
});
for await (const piece of result.textStream) process.stdout.write(piece);
console.log();
const schema = z.object({ done: z.boolean(), note: z.string() });
const { object } = await generateObject({ model, schema, prompt: 'Your verdict?' });
console.log(JSON.stringify(object));
