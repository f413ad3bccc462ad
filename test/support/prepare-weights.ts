// Run by tests as a process of its own: prepare the weights of one safetensors file in a cache folder and print what
// happened as one line of JSON. Argument: a PrepareJob as JSON.
import { readdirSync } from 'node:fs'
import { componentHash } from '#engine/weights/hash.ts'
import { prepareWeights } from '#engine/weights/prepared-cache.ts'
import { createScratch, removeScratch } from '#worker/scratch-folder.ts'
import { AppError } from '../../src/errors.ts'
import { componentOf } from './component-of.ts'

export type PrepareJob = {
  readonly file: string
  readonly cacheDir: string
  readonly limitBytes?: number
  /** What to do at the first piece: stay for 500 ms, or die of SIGKILL. */
  readonly atFirstPiece?: 'linger' | 'die'
  /** Wait until this moment, in milliseconds since 1970, so that two processes begin together. */
  readonly startAt?: number
}
export type PrepareOutcome = {
  readonly error?: { readonly code: string; readonly message: string }
  readonly files?: string[]
  readonly wrote: boolean
  readonly scratch: string[]
}

const job = JSON.parse(process.argv[2]) as PrepareJob
const component = await componentOf('unet', job.file)
let wrote = false
const onProgress = (): void => {
  if (!wrote && job.atFirstPiece === 'linger') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 500)
  if (!wrote && job.atFirstPiece === 'die') process.kill(process.pid, 'SIGKILL')
  wrote = true
}
let scratchDir = ''
let outcome: Pick<PrepareOutcome, 'error' | 'files'>
try {
  scratchDir = await createScratch(job.cacheDir)
  const hash = await componentHash(component, { cacheDir: job.cacheDir, scratchDir })
  while (Date.now() < (job.startAt ?? 0)) await new Promise((resolve) => setTimeout(resolve, 1))
  const { cacheDir, limitBytes = 1e12 } = job
  const { weights } = await prepareWeights(component, hash, {
    dtype: 'F32',
    cacheDir,
    scratchDir,
    limitBytes,
    onProgress,
  })
  const files = [...weights.values()].flatMap(({ source }) => ('file' in source ? [source.file] : []))
  outcome = { files: [...new Set(files)] }
} catch (error) {
  if (!(error instanceof AppError)) throw error
  outcome = { error: { code: error.code, message: error.message } }
}
const scratch = scratchDir === '' ? [] : readdirSync(scratchDir)
if (scratchDir !== '') await removeScratch(scratchDir)
process.stdout.write(JSON.stringify({ ...outcome, wrote, scratch } satisfies PrepareOutcome))
