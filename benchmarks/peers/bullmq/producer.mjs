// The producer: reads commands, one JSON object a line, and answers each with one.
import { createInterface } from "node:readline";
import { Queue, QueueEvents, Job } from "bullmq";
import { Redis } from "ioredis";

const url = new URL(process.env.BENCH_URL);
const keep = process.env.BENCH_KEEP === "1";
const database = Number(url.pathname.slice(1) || 0);
const connection = new Redis(Number(url.port || 6379), url.hostname, { db: database, maxRetriesPerRequest: null });
const options = { removeOnComplete: keep ? { age: 3600 } : true, removeOnFail: true };
const queue = new Queue("bench", { connection });
const events = keep ? new QueueEvents("bench", { connection: connection.duplicate() }) : null;

async function finished(job, timeout_s) {
  return job.waitUntilFinished(events, timeout_s * 1000);
}

const commands = {
  async send_many({ task, arguments: values }) {
    const jobs = await queue.addBulk(values.map((value) => ({ name: task, data: { value }, opts: options })));
    return jobs[jobs.length - 1].id;
  },
  async send_each({ task, arguments: values }) {
    let job;
    for (const value of values) job = await queue.add(task, { value }, options);
    return job.id;
  },
  async wait({ handle, timeout_s }) {
    return finished(await Job.fromId(queue, handle), timeout_s);
  },
  async round_trips({ count, limit_s }) {
    const trips = [];
    const until = performance.now() + limit_s * 1000;
    while (trips.length < count && performance.now() < until) {
      const began = performance.now();
      const value = await finished(await queue.add("same", { value: trips.length }, options), 10);
      if (value !== trips.length) throw new Error(`${value} in place of ${trips.length}`);
      trips.push((performance.now() - began) / 1000);
    }
    return trips;
  },
};

if (events) await events.waitUntilReady();
for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = { value: await commands[name](rest) };
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
