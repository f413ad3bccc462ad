// Models that cannot be used, through the real command: one clear line each, and nothing left behind.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { appendFile, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import sharp from 'sharp'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { copyTinyModel, editJson, editTensors, saveHole, type FileTensor } from '../support/model-files.ts'
import { jsonRefusal, leftovers, makePlace, refusal, removePlace, sepia, type Place } from '../support/sepia-command.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'
import { tinyModels, writeTinyBSingleFile } from '../support/tiny-b-single-file.ts'

let cache: string
let place: Place
beforeAll(async () => {
  cache = await mkdtemp(join(tmpdir(), 'sepia-test-cache-'))
})
beforeEach(() => {
  place = makePlace(cache)
  return () => removePlace(place)
})
afterAll(() => rm(cache, { recursive: true }))

const order = (model: string, ...more: readonly string[]): string[] => {
  const size = ['--width', '64', '--height', '64']
  return ['generate', 'a red apple', '-m', model, '--seed', '1', '--steps', '2', ...size, '-o', 'a.png', ...more]
}

/** The line with which the command refuses a model, checked to end it with the exit code of a failure. */
async function refusalOf(model: string): Promise<string> {
  const { code, message } = await refusal(place, order(model))
  expect(code).toBe(1)
  return message
}

// The other ways in which a header can be wrong are in test/tensor/safetensors.test.ts.
describe('a damaged file', () => {
  const tensor = { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] }
  const header = (...changes: readonly object[]): string => JSON.stringify({ a: Object.assign({}, tensor, ...changes) })

  /** A safetensors file of a header, its length as told, and 16 bytes of data. */
  function file(text: string, told = text.length, dataBytes = 16): Buffer {
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(told))
    return Buffer.concat([prefix, Buffer.from(text, 'latin1'), Buffer.alloc(dataBytes)])
  }

  it.each<[string, Buffer, RegExp]>([
    ['cut in its header', file(header()).subarray(0, 40), /is cut short or not safetensors: a header of \d+ bytes/],
    ['cut in its data', file(header(), undefined, 15), /is cut short: its tensors end at \d+, the file at \d+$/],
    ['with bytes behind its end', file(header(), undefined, 17), /has bytes that belong to no tensor/],
    ['with a header length beyond its end', file(header(), 5000), /is cut short or not safetensors/],
    ['with a header length beyond all limits', file(header(), 2 ** 40), /its header would have 1099511627776 bytes/],
    ['with a header length of 0', file(header(), 0), /a header of 0 bytes/],
    ['with a header length that cuts the JSON', file(header(), 20), /has a header that is not JSON$/],
    [
      'with two tensors of one name',
      file(`{"a":${JSON.stringify(tensor)},"\\u0061":${JSON.stringify(tensor)}}`),
      /has the key "a" twice in its header$/,
    ],
    ['with offsets that leave a hole', file(header({ data_offsets: [4, 20] })), /has a hole before tensor "a"/],
    [
      'with tensors that overlap',
      file(JSON.stringify({ a: tensor, b: { ...tensor, data_offsets: [8, 24] } }), undefined, 24),
      /has an overlap at tensor "b"/,
    ],
    ['with a shape of another size', file(header({ shape: [2, 3] })), /has 16 bytes, and F32 \[2, 3\] has 24$/],
    ['with a dtype of another size', file(header({ dtype: 'F16' })), /has 16 bytes, and F16 \[2, 2\] has 8$/],
    ['with an unknown dtype', file(header({ dtype: 'F33' })), /has the unknown dtype "F33"$/],
    ['that is a pickle', Buffer.from('\x80\x02}q\x00(X\x05', 'latin1'), /is a Python pickle/],
  ])('%s', async (_, bytes, message) => {
    const model = join(await temporaryFolder('damaged'), 'model.safetensors')
    await writeFile(model, bytes)
    expect(await refusalOf(model)).toMatch(new RegExp(`^file ${model} .*${message.source}`))
  })

  it('of a real model, cut or grown', async () => {
    const model = await writeTinyBSingleFile()
    await appendFile(model, 'x')
    expect(await refusalOf(model)).toMatch(
      /has bytes that belong to no tensor: its tensors end at \d+, the file at \d+$/,
    )
    await truncate(model, 3_000_000)
    expect(await refusalOf(model)).toMatch(/is cut short: its tensors end at \d+, the file at 3000000$/)
    expect(await jsonRefusal(place, order(model))).toEqual({
      code: 'bad_file',
      message: expect.stringMatching(/is cut short/) as string,
    })
  })

  it('of a folder, in any of its parts', async () => {
    const model = await copyTinyModel('tiny-b')
    await truncate(join(model, 'vae/diffusion_pytorch_model.safetensors'), 100_000)
    expect(await refusalOf(model)).toMatch(/^file .*vae\/diffusion_pytorch_model\.safetensors is cut short/)
    await writeFile(join(model, 'unet/config.json'), '{')
    expect(await refusalOf(model)).toMatch(/^file .*unet\/config\.json is not JSON$/)
  })
})

describe('another kind of model', () => {
  const unet = 'model.diffusion_model.'
  const attention = `${unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight`
  it.each<[string, Record<string, readonly number[]>, string]>([
    ['SD 1.5', { [attention]: [320, 768] }, 'Stable Diffusion 1'],
    ['SD 2', { [attention]: [320, 1024] }, 'Stable Diffusion 2'],
    ['SD 3', { [`${unet}joint_blocks.0.x_block.mlp.fc1.weight`]: [4] }, 'Stable Diffusion 3'],
    ['Flux', { 'double_blocks.0.img_attn.norm.key_norm.scale': [4] }, 'Flux'],
    ['a LoRA', { 'lora_unet_down_blocks_1.lora_down.weight': [4, 4] }, 'a LoRA .*, which changes a model and is none'],
    ['a ControlNet', { 'controlnet_cond_embedding.conv_in.weight': [4] }, 'a ControlNet or T2I-Adapter'],
    ['a VAE', { 'first_stage_model.encoder.conv_in.weight': [4] }, 'an autoencoder \\(VAE\\) alone'],
    ['something else', { 'layer.one': [4] }, 'of an unknown kind: its 1 tensors begin with layer.one \\(1\\)'],
  ])('%s is named', async (_, shapes, words) => {
    const model = join(await temporaryFolder('kind'), 'model.safetensors')
    await saveHole(model, shapes)
    expect(await refusalOf(model)).toMatch(new RegExp(`^file ${model} is ${words}.*; supported: Stable Diffusion XL$`))
  })

  it('a refiner, and a model without a VAE', async () => {
    const model = join(await temporaryFolder('kind'), 'model.safetensors')
    const shapesOf = (name: string): Record<string, readonly number[]> => {
      const golden = readFileSync(join(import.meta.dirname, `../golden/shapes/${name}.json.gz`))
      return (JSON.parse(gunzipSync(golden).toString()) as { singleFile: Record<string, readonly number[]> }).singleFile
    }
    await saveHole(model, shapesOf('refiner'))
    expect(await refusalOf(model)).toMatch(
      /: this is a refiner, which goes on from a base model and cannot start from text$/,
    )
    const base = Object.entries(shapesOf('base')).filter(([name]) => !name.startsWith('first_stage_model.'))
    await saveHole(model, Object.fromEntries(base))
    expect(await refusalOf(model)).toMatch(/: there is no VAE in it$/)
  })

  it('an inpainting model says what it needs', async () => {
    const model = await copyTinyModel('tiny-b')
    await editJson(join(model, 'unet/config.json'), { in_channels: 9 })
    await editTensors(join(model, 'unet/diffusion_pytorch_model.safetensors'), (tensors) => {
      const { dtype } = tensors.get('conv_in.weight')!
      tensors.set('conv_in.weight', { dtype, shape: [32, 9, 3, 3], bytes: new Uint8Array(32 * 9 * 9 * 2) })
    })
    expect(await refusalOf(model)).toMatch(/: this is an inpainting model, which needs a picture and a mask$/)
  })

  it('a folder of another pipeline, of one network, or of nothing', async () => {
    const model = await copyTinyModel('tiny-b')
    expect(await refusalOf(join(model, 'unet'))).toMatch(
      /model_index\.json is missing \(it is one network alone: UNet2DConditionModel\)$/,
    )
    for (const name of ['StableDiffusionPipeline', 'StableDiffusion3Pipeline', 'FluxPipeline']) {
      await editJson(join(model, 'model_index.json'), { _class_name: name })
      expect(await refusalOf(model)).toMatch(
        new RegExp(`model_index\\.json: _class_name "${name}" is not supported .supported: Stab`),
      )
    }
    const empty = join(model, 'empty')
    await mkdir(empty)
    expect(await refusalOf(empty)).toMatch(/^folder .*\/empty is no diffusers model: model_index\.json is missing$/)
  })

  it('nothing, a device, a pipe', async () => {
    const folder = await temporaryFolder('kind')
    expect(await refusalOf(join(folder, 'no'))).toMatch(/^--model: there is no file or folder .*\/no$/)
    expect(await refusalOf('/dev/null')).toMatch(/^file \/dev\/null is not a regular file$/)
    execFileSync('mkfifo', [join(folder, 'pipe')])
    expect(await refusalOf(join(folder, 'pipe'))).toMatch(/^file .*\/pipe is not a regular file$/)
  })
})

describe('a model that is not whole', () => {
  const weights = 'unet/diffusion_pytorch_model.safetensors'
  it.each<[string, (tensors: Map<string, FileTensor>) => void, RegExp]>([
    [
      'missing tensors, all listed',
      (tensors) => void [tensors.delete('conv_in.bias'), tensors.delete('conv_out.weight')],
      /^unet: 2 tensors are missing: conv_in\.bias, conv_out\.weight$/,
    ],
    [
      'tensors of no place',
      (tensors) => void tensors.set('motion.weight', { dtype: 'F16', shape: [1], bytes: new Uint8Array(2) }),
      /^unet: 1 tensor belongs to no part of the network: motion\.weight$/,
    ],
    [
      'a wrong shape',
      (tensors) => void tensors.set('conv_in.bias', { dtype: 'F16', shape: [31], bytes: new Uint8Array(62) }),
      /unet's tensor conv_in\.bias has the shape \[31\], the network needs \[32\]$/,
    ],
    [
      'a number format that is no weight',
      (tensors) => void tensors.set('conv_in.bias', { dtype: 'I32', shape: [32], bytes: new Uint8Array(128) }),
      /tensor conv_in\.bias is stored as I32, supported: F32, F16, BF16$/,
    ],
  ])('%s', async (_, edit, message) => {
    const model = await copyTinyModel('tiny-b')
    await editTensors(join(model, weights), edit)
    expect(await refusalOf(model)).toMatch(message)
  })

  it('a part, a config, a tokenizer that is not there', async () => {
    const model = await copyTinyModel('tiny-b')
    await rm(join(model, 'tokenizer_2/tokenizer.json'))
    expect(await refusalOf(model)).toMatch(
      /tokenizer_2 has no tokenizer: neither vocab\.json and merges\.txt nor tokenizer\.json$/,
    )
    await rm(join(model, 'text_encoder/config.json'))
    expect(await refusalOf(model)).toMatch(/^file .*text_encoder\/config\.json does not exist$/)
    await rm(join(model, 'text_encoder/model.safetensors'))
    await writeFile(join(model, 'text_encoder/config.json'), '{}')
    expect(await jsonRefusal(place, order(model))).toMatchObject({
      code: expect.stringMatching(/^(wrong|bad)_/) as string,
    })
  })

  it('a tokenizer that does not fit', async () => {
    const model = await copyTinyModel('tiny-b')
    await editJson(join(model, 'text_encoder_2/config.json'), { vocab_size: 999 })
    expect(await refusalOf(model)).toMatch(/vocab_size 999 is not supported \(the tokenizer has 1000 tokens\)$/)
    const single = await writeTinyBSingleFile()
    await rm(single.replace(/\.safetensors$/, '.tokenizer'), { recursive: true })
    expect(await refusalOf(single)).toMatch(
      /embeddings of 1000 tokens, CLIP's tokenizer has 49408; a model with another one needs it in/,
    )
  })
})

describe('an order that does not suit the model', () => {
  const model = join(tinyModels, 'tiny-b')
  it.each<[string[], string]>([
    [['--width', '65'], "width: 65 is no multiple of 8, which this model's VAE asks for; the nearest are 64 and 72"],
    [
      ['--height', '4095'],
      "height: 4095 is no multiple of 8, which this model's VAE asks for; the nearest are 4088 and 4096",
    ],
    [['--clip-skip', '3'], "clip_skip: 3 is more than this model's 3-layer text encoder allows (1 to 2)"],
    [['--prompt-2', 'word '.repeat(301)], 'prompt_2: 602 tokens need 9 chunks of 75; at most 8 are allowed'],
    [['--negative', 'word '.repeat(301)], 'negative_prompt: 602 tokens need 9 chunks of 75; at most 8 are allowed'],
    [['--prompt-2', `${'('.repeat(1000)}x${')'.repeat(1000)}`], "prompt_2: the brackets' weights multiply to"],
  ])('%#', async (options, message) => {
    const argv = order(model, ...options)
    const refused = await refusal(place, argv)
    expect(refused.code).toBe(2)
    expect(refused.message).toContain(message)
  })

  it('is told before the weights are read', async () => {
    const fresh = makePlace()
    await refusal(fresh, order(model, '--width', '65'))
    expect(existsSync(join(fresh.cache, 'hashes.json'))).toBe(false)
    removePlace(fresh)
  })

  it('a size below the factor has one neighbour', async () => {
    const { message } = await refusal(place, ['generate', 'x', '--width', '8', '-o', 'a.png'])
    expect(message).toBe("width: 8 is no multiple of 32, which this model's VAE asks for; the nearest is 32")
  })

  it('an empty prompt is one, and a model of one latent makes a picture', async () => {
    const argv = ['generate', '', '-m', model, '--width', '8', '--height', '8', '--steps', '1', '-o', 'a.png']
    expect(await sepia(place, argv)).toMatchObject({ code: 0, stderr: '' })
    expect(await sharp(join(place.folder, 'a.png')).metadata()).toMatchObject({ width: 8, height: 8 })
  })
})

describe('a device', () => {
  it('that does not work here is told with its reason, one that works makes a picture', async () => {
    const { stdout } = await sepia(place, ['doctor', '--json'])
    const { onnxruntime } = JSON.parse(stdout) as {
      onnxruntime: { providers: { name: string; loads: boolean; reason?: string }[] }
    }
    expect(onnxruntime.providers.map(({ name }) => name)).toEqual(['cpu', 'cuda', 'webgpu'])
    const outcomes = await Promise.all(
      onnxruntime.providers.map(async ({ name }) => {
        const device = makePlace()
        const { code, stdout } = await sepia(device, order(join(tinyModels, 'tiny-b'), '--device', name, '--json'))
        expect(leftovers(device)).toEqual([])
        removePlace(device)
        return { code, error: (JSON.parse(stdout) as { error?: unknown }).error }
      }),
    )
    expect(outcomes).toEqual(
      onnxruntime.providers.map(({ name, loads, reason }) => {
        const message = `device: ${name} does not work here ("sepia doctor" tells what does): ${reason}`
        return loads ? { code: 0, error: undefined } : { code: 1, error: { code: 'device_unavailable', message } }
      }),
    )
  })
})

describe('numbers that are none', () => {
  /** Put `value` in place of the first number of a tensor. */
  async function spoil(file: string, name: string, value: number): Promise<void> {
    await editTensors(file, (tensors) => {
      const { dtype, bytes } = tensors.get(name)!
      expect(dtype).toBe('F32')
      new DataView(bytes.buffer, bytes.byteOffset).setFloat32(0, value, true)
    })
  }

  it.each<[string, string, string, number, RegExp]>([
    [
      'the UNet',
      'unet/diffusion_pytorch_model',
      'conv_in.weight',
      Number.NaN,
      /^the UNet's prediction at step 1 of 2 is not/,
    ],
    [
      'the UNet',
      'unet/diffusion_pytorch_model',
      'conv_out.bias',
      Infinity,
      /^the UNet's prediction at step 1 of 2 is not/,
    ],
    [
      'the VAE',
      'vae/diffusion_pytorch_model',
      'decoder.conv_in.bias',
      Number.NaN,
      /^the decoded picture is not finite/,
    ],
    [
      'a text encoder',
      'text_encoder/model',
      'encoder.layers.0.mlp.fc1.bias',
      Number.NaN,
      /^the output of the first text encoder is not finite/,
    ],
  ])('in the weights of %s (%s)', async (_, file, name, value, message) => {
    const model = await copyTinyModel('tiny-a')
    const path = join(model, `${file}.safetensors`)
    await spoil(path, name, value)
    expect(await refusalOf(model)).toMatch(message)
  })

  it('are an error object with --json', async () => {
    const model = await copyTinyModel('tiny-a')
    await spoil(join(model, 'unet/diffusion_pytorch_model.safetensors'), 'conv_in.weight', Number.NaN)
    expect(await jsonRefusal(place, order(model))).toMatchObject({ code: 'not_finite' })
  })

  it('a picture of one colour is made, and warned of', async () => {
    const model = await copyTinyModel('tiny-a')
    await editTensors(join(model, 'vae/diffusion_pytorch_model.safetensors'), (tensors) => {
      for (const name of ['decoder.conv_out.weight', 'decoder.conv_out.bias']) tensors.get(name)!.bytes.fill(0)
    })
    const { code, stdout, stderr } = await sepia(place, order(model))
    expect({ code, stderr }).toEqual({ code: 0, stderr: 'sepia: warning: the picture of seed 1 has a single colour\n' })
    expect(stdout).toMatch(/a\.png {2}seed 1 /)
    const json = JSON.parse((await sepia(place, order(model, '--json'))).stdout) as { warnings: unknown }
    expect(json.warnings).toEqual(['the picture of seed 1 has a single colour'])
    expect(leftovers(place)).toEqual([])
  })
})
