// BullMQ in `python -m benchmarks.features`: `node bullmq_features.cjs`, its producer, which answers as
// features_drive.py does, one JSON request a line; `node bullmq_features.cjs worker`, its worker.
//
// Node can share no memory with whoever measures, so each job writes its count to the file: a system call a job,
// some 2 µs of it.
const fs = require('node:fs')
const path = require('node:path')
const readline = require('node:readline')
const { Queue, QueueEvents, Worker } = require('bullmq')

const { BENCH_URL, BENCH_METER, BENCH_CONCURRENCY, BENCH_FEATURE } = process.env
const NAME = 'bench'
const LACKS = { unique_start: 'has no such key' }
const at = new URL(BENCH_URL)
const connection = { host: at.hostname, port: Number(at.port), maxRetriesPerRequest: null }
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// What a job does, as in meter.py

let file = null
let counted = 0n
let first = 0n
const row = Buffer.alloc(24)

function count () {
  if (file === null) {
    const name = path.join(BENCH_METER, `${process.pid}.count`)
    file = fs.openSync(name + '.new', 'w+')
    fs.writeSync(file, row, 0, row.length, 0)
    fs.renameSync(name + '.new', name)
    const cell = new Int32Array(new SharedArrayBuffer(4))
    while (!fs.existsSync(path.join(BENCH_METER, 'gate'))) Atomics.wait(cell, 0, 0, 1)
    first = process.hrtime.bigint()
  }
  counted += 1n
  row.writeBigUInt64LE(first, 0)
  row.writeBigUInt64LE(process.hrtime.bigint(), 8)
  row.writeBigUInt64LE(counted, 16)
  fs.writeSync(file, row, 0, row.length, 0)
}

async function work () {
  const queue = new Queue(NAME, { connection })
  const kept = BENCH_FEATURE === 'kept' || BENCH_FEATURE === 'wait'
  const options = {
    connection,
    concurrency: Number(BENCH_CONCURRENCY),
    removeOnComplete: kept ? { age: 3600 } : { count: 0 }
  }
  if (BENCH_FEATURE === 'limit') { // of the whole queue: keys are BullMQ Pro's
    await queue.setGlobalConcurrency(1000)
    options.limiter = { max: 1000000, duration: 1000 }
  }
  const jobs = {
    plain: () => count(),
    kept: () => { count(); return 'done' },
    nap: async () => { await sleep(10); count() },
    progress: async (job) => { await job.updateProgress(0.5); count() },
    progress_nap: async (job) => { await job.updateProgress(0.5); await sleep(10); count() },
    follow: async (job) => { await queue.add('plain', job.data); count() }
  }
  const worker = new Worker(NAME, (job) => jobs[job.name](job), options)
  worker.on('error', (error) => console.error(error))
}

// The producer

const NAMES = { wait: 'kept', unique: 'plain', limit: 'plain' }

async function drive () {
  const queue = new Queue(NAME, { connection })
  const events = BENCH_FEATURE === 'wait' ? new QueueEvents(NAME, { connection }) : null
  if (events !== null) {
    events.setMaxListeners(0)
    await events.waitUntilReady()
  }
  await queue.waitUntilReady()
  let jobs = []
  let waits = []
  const does = {
    lacks: () => LACKS,
    async push ({ feature, count, size }) {
      const items = []
      for (let number = 0; number < count; number++) {
        const text = String(number).padStart(20, '0') + 'x'.repeat(size - 20)
        const opts = feature === 'unique' ? { deduplication: { id: `key-${number}` } } : {}
        items.push({ name: NAMES[feature] ?? feature, data: { text }, opts })
      }
      const started = process.hrtime.bigint()
      jobs = []
      for (let start = 0; start < count; start += 1000) {
        jobs.push(...await queue.addBulk(items.slice(start, start + 1000)))
      }
      return Number(process.hrtime.bigint() - started) / 1e9
    },
    async wait ({ seconds }) {
      waits = jobs.map((job) => job.waitUntilFinished(events, 100000))
      await sleep(seconds * 1000)
      return waits.length
    },
    async waited () {
      return (await Promise.all(waits)).length
    }
  }
  const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n')
  say({ answer: 'ready' })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    try {
      say({ answer: await does[request.do](request) })
    } catch (error) {
      console.error(error)
      say({ error: String(error) })
    }
  }
  process.exit(0)
}

if (process.argv[2] === 'worker') work()
else drive()
