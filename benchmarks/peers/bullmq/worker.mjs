// The worker: the four tasks of the benchmark, counted in the file that all contenders count in.
import { openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "bullmq";
import { Redis } from "ioredis";

const SLOTS = 4096;
const url = new URL(process.env.BENCH_URL);
const database = Number(url.pathname.slice(1) || 0);
const connection = new Redis(Number(url.port || 6379), url.hostname, { db: database, maxRetriesPerRequest: null });
const folder = process.env.BENCH_FOLDER;
const counts = openSync(join(folder, "counts"), "r+");
const log = openSync(join(folder, "log"), "a");
const count = new BigUint64Array(1);
const slot = (process.pid % SLOTS) * 8;

const monotonic = () => Number(process.hrtime.bigint()) / 1e9;

function ran() {
  count[0] += 1n;
  writeSync(counts, new Uint8Array(count.buffer), 0, 8, slot);
}

const tasks = {
  same(value) {
    ran();
    return value;
  },
  size(value) {
    ran();
    return value.length;
  },
  late(sent) {
    writeSync(log, `waited ${monotonic() - sent} 0\n`);
    ran();
  },
  async nap(seconds) {
    writeSync(log, `began ${process.pid} ${monotonic()}\n`);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    writeSync(log, `ended ${process.pid} ${monotonic()}\n`);
    ran();
  },
};

const worker = new Worker("bench", async (job) => tasks[job.name](job.data.value), { connection, concurrency: 100 });
worker.on("error", (error) => console.error(error));
process.on("SIGTERM", async () => {
  await worker.close();
  process.exit(0);
});
