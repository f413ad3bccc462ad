import { describe, expect, it } from 'vitest'
import type { OpenvinoPlace } from '#engine/backends/openvino-places.ts'
import { chooseEngine, networkArithmetic, resolveChoice, type FoundOpenvino } from '#worker/engine-choice.ts'
import type { EngineSettings } from '#worker/protocol.ts'
import { AppError } from '../../src/errors.ts'
import { openvinoFolder, hasBf16 } from '../support/openvino.ts'

type Asked = Partial<Pick<EngineSettings, 'backend' | 'device' | 'precision'>>

const place: OpenvinoPlace = { folder: '/ov', library: '/ov/libopenvino_c.so' }
const found = (...formats: string[]): FoundOpenvino => ({ place, version: '2026.4.1', formats: new Set(formats) })
const modern = found('FP32', 'BF16', 'INT8')
const old = found('FP32', 'INT8')
const broken: FoundOpenvino = { fault: new AppError('device_unavailable', 'openvino: /ov is not whole') }
const asked = (changes: Asked) => ({ backend: 'auto', device: 'cpu', precision: 'auto', ...changes }) as const

describe('auto', () => {
  it.each<[Asked, FoundOpenvino, string, RegExp]>([
    [{}, modern, 'openvino bf16', /computes in bf16/],
    [{}, old, 'onnxruntime fp32', /neither AVX512_BF16 nor AMX/],
    [{}, null, 'onnxruntime fp32', /OpenVINO, which is not found; "sepia backend install openvino" fetches it/],
    [{}, broken, 'onnxruntime fp32', /is not whole/],
    [{ backend: 'onnxruntime' }, modern, 'onnxruntime fp32', /onnxruntime was asked for/],
    [{ backend: 'openvino' }, modern, 'openvino bf16', /computes in bf16/],
    [{ backend: 'openvino' }, old, 'openvino fp32', /nothing faster/],
    [{ precision: 'fp32' }, modern, 'onnxruntime fp32', /was asked for/],
    [{ precision: 'fp16' }, modern, 'onnxruntime fp16', /was asked for/],
    [{ precision: 'int8' }, old, 'openvino int8', /was asked for/],
    [{ precision: 'int8' }, null, 'onnxruntime int8', /was asked for/],
    [{ precision: 'bf16' }, modern, 'openvino bf16', /was asked for/],
    [{ device: 'cuda' }, null, 'onnxruntime fp32', /on cuda/],
    [{ device: 'gpu' }, found('FP32', 'FP16'), 'openvino fp16', /the gpu computes in fp16/],
    [{ device: 'npu', precision: 'fp32' }, found('FP16'), 'openvino fp32', /was asked for/],
  ])('%j', (changes, openvino, wanted, why) => {
    const { backend, precision, reason } = resolveChoice(asked(changes), openvino)
    expect(`${backend} ${precision}`).toBe(wanted)
    expect(reason).toMatch(why)
  })
})

describe('what cannot be had is refused, never replaced', () => {
  it.each<[Asked, FoundOpenvino, RegExp]>([
    [
      { precision: 'bf16' },
      null,
      /^precision: bf16 needs OpenVINO, which is not found; "sepia backend install openvino"/,
    ],
    [
      { precision: 'bf16' },
      old,
      /^precision: bf16 needs a CPU with AVX512_BF16 or AMX, which this one does not have; take fp32/,
    ],
    [{ precision: 'bf16' }, broken, /^openvino: \/ov is not whole$/],
    [{ precision: 'bf16', backend: 'onnxruntime' }, modern, /^precision: bf16 needs the backend openvino/],
    [{ precision: 'fp16', backend: 'openvino' }, modern, /^precision: fp16 needs a CPU with AVX512_FP16/],
    [{ backend: 'openvino' }, null, /^backend: openvino needs OpenVINO, which is not found/],
    [{ device: 'gpu' }, null, /^device: gpu needs OpenVINO, which is not found/],
    [{ device: 'gpu', backend: 'onnxruntime' }, modern, /^device gpu: onnxruntime knows cpu, cuda, webgpu$/],
    [{ device: 'cuda', backend: 'openvino' }, modern, /^device cuda: openvino knows cpu, gpu, npu$/],
    [{ device: 'cuda', precision: 'bf16' }, modern, /^device cuda: openvino knows cpu, gpu, npu$/],
  ])('%j', (changes, openvino, words) => {
    expect(() => resolveChoice(asked(changes), openvino)).toThrow(words)
  })
})

it('finds out what this machine has', async () => {
  const settings = { threads: 1, cacheDir: '/', cacheLimitBytes: 1, scratchDir: '/', openvinoFolders: [openvinoFolder] }
  const chosen = await chooseEngine({ ...settings, ...asked({}) })
  expect(`${chosen.backend} ${chosen.precision}`).toBe(hasBf16() ? 'openvino bf16' : 'onnxruntime fp32')
  expect((await chooseEngine({ ...settings, ...asked({ precision: 'fp32' }) })).openvino).toBeNull()
})

it('the VAE is never rounded, and text encoders run mapped where OpenVINO has the CPU', () => {
  const onnxruntime = { backend: 'onnxruntime', precision: 'fp16', openvino: null } as const
  const exact = { backend: 'onnxruntime', precision: 'fp32', arithmetic: 'graph' }
  expect(networkArithmetic('vae', onnxruntime, 'cuda')).toEqual(exact)
  expect(networkArithmetic('unet', onnxruntime, 'cuda').precision).toBe('fp16')
  const bf16 = { backend: 'openvino', precision: 'bf16', openvino: modern } as const
  expect(networkArithmetic('unet', bf16, 'cpu')).toEqual({ backend: 'openvino', precision: 'bf16', arithmetic: 'bf16' })
  const int8 = { ...bf16, precision: 'int8' } as const
  expect(networkArithmetic('unet', int8, 'cpu')).toEqual({ backend: 'openvino', precision: 'fp32', arithmetic: 'bf16' })
  expect(networkArithmetic('vae', bf16, 'cpu')).toEqual({ ...exact, backend: 'openvino' })
  expect(networkArithmetic('textEncoder', bf16, 'cpu')).toEqual(exact)
  const fp16 = { ...bf16, precision: 'fp16' } as const
  expect(networkArithmetic('textEncoder2', fp16, 'gpu')).toMatchObject({ backend: 'openvino', arithmetic: 'fp16' })
})
