// An engine process whose tasks misbehave as their prompt says; everything round them is the real child program.
import { once } from 'node:events'
import { pbkdf2Sync } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import type { GenerateResult } from '#worker/protocol.ts'
import { serveRequests } from '#worker/request-loop.ts'
import { AppError } from '../../src/errors.ts'

const result: GenerateResult = {
  backend: 'onnxruntime',
  precision: 'fp32',
  modelHash: 'ab'.repeat(32),
  refinerHash: null,
  timings: {
    loadMs: 1,
    encodePromptMs: 1,
    encodeStartMs: 0,
    stepMs: [1, 1],
    decodeMs: 1,
    encodeImageMs: 1,
    totalMs: 6,
  },
  warnings: [],
}

let stop = new AbortController()

serveRequests((settings) => ({
  async generate(task, _files, { onProgress, onImage, onInterruptible }) {
    const [behaviour, detail] = task.prompt.split(' ')
    onProgress({ phase: 'encode' })
    switch (behaviour) {
      case 'pictures':
        for (const [index, seed] of task.seeds.entries()) {
          onProgress({ phase: 'denoise', image: index, step: 1, of: 1 })
          await onImage(index, seed, new Uint8Array(Number(detail ?? 3)).fill(index + 1))
        }
        return result
      case 'signal':
        process.kill(process.pid, detail)
        return new Promise(() => {})
      case 'abort':
        return process.abort()
      case 'words':
        process.stderr.write('the tensor was\nnot to be found\n')
        return process.exit(3)
      case 'chatter':
        process.stderr.write(`${'x'.repeat(200_000)}\nthe end\n`, () => process.exit(3))
        return new Promise(() => {})
      case 'stdout':
        process.stdout.write('a native library says hello\n')
        return result
      case 'uncaught':
        setTimeout(() => {
          throw new Error('thrown outside the task')
        }, 1)
        return new Promise(() => {})
      case 'rejection':
        void Promise.reject(new Error('rejected outside the task'))
        return new Promise(() => {})
      case 'disconnect':
        process.disconnect()
        return new Promise(() => {})
      case 'refuse':
        throw new AppError('bad_size', 'width must be a multiple of 8, got 1020')
      case 'oops':
        throw new TypeError('undefined is\nnot a picture')
      case 'allocation':
        return { ...result, warnings: [String(new ArrayBuffer(2 ** 50).byteLength)] }
      case 'function':
        return { ...result, warnings: (() => {}) as unknown as string[] }
      case 'scratch':
        writeFileSync(path.join(settings.scratchDir, 'half-written'), 'half')
        onProgress({ phase: 'load', component: 'unet' })
        return busyForever()
      case 'stoppable':
        // Stops when it is asked to, after a while that may be too long.
        onInterruptible()
        onProgress({ phase: 'load', component: 'unet' })
        await once(stop.signal, 'abort')
        stop = new AbortController()
        if (detail === 'never') return busyForever()
        throw new AppError('cancelled', 'cancelled')
      case 'busy':
        onProgress({ phase: 'load', component: 'unet' })
        return busyForever()
      case 'native':
        onProgress({ phase: 'load', component: 'unet' })
        // Minutes inside one call of OpenSSL, as inside one inference.
        pbkdf2Sync('', '', 2 ** 31 - 1, 64, 'sha512')
        return result
      default:
        throw new AppError('bad_prompt', `fixture engine: unknown behaviour ${behaviour}`)
    }
  },
  inspect: async (file) => {
    throw new AppError('bad_file', `${file}: is not a model`)
  },
  inspectAsset: async ({ kind }) => {
    throw new AppError('bad_file', `the file is no ${kind}`)
  },
  quantize: async () => {
    throw new Error('quantize: not in this engine')
  },
  choose: async () => ({ backend: 'onnxruntime', precision: 'fp32' }),
  cancel: () => stop.abort(),
  probe: async () => ({
    onnxruntimeVersion: process.versions.node,
    providers: [{ device: settings.device, loads: true, reason: null }],
    openvino: { works: false, reason: 'none' },
    choice: { backend: 'onnxruntime', precision: 'fp32', reason: 'it is exact' },
  }),
  async [Symbol.asyncDispose]() {
    process.stderr.write('closed in peace\n')
  },
}))

function busyForever(): never {
  for (;;) Math.random()
}
