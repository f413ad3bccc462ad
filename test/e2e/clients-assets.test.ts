// OctoAI's official clients, unmodified, uploading to a real server process, and a picture of all that they sent.
import { execFile } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import path from 'node:path'
import { promisify } from 'node:util'
import { Client } from '@octoai/client'
import { OctoAIClient } from '@octoai/sdk'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { goldenFolder } from '../support/golden.ts'
import { pythonTool } from '../support/python-tools.ts'
import { startServer, type RunningServer } from '../support/running-server.ts'
import { tinyModels, writeTinyBSingleFile } from '../support/tiny-b-single-file.ts'

const engine = 'image/stable-diffusion-xl-v1-0'
const golden = (name: string): string => path.join(goldenFolder, name)
const loraFile = golden('lora/b-lora.safetensors')
const inversionFile = golden('inversions/tiny-b-zorb.safetensors')
const pickleFile = golden('inversions/tiny-b-zorb.pt')
const vaeFile = golden('vae-swap/tiny-b.safetensors')

let server: RunningServer

beforeAll(async () => {
  const env = { SEPIA_ASSET_URLS: 'loopback' }
  server = await startServer(['--model', path.join(tinyModels, 'tiny-b')], { env })
  // The clients' own S3 clients read it.
  process.env['AWS_ENDPOINT_URL_S3'] = server.url
})
afterAll(() => server[Symbol.asyncDispose]())

const sdk = () =>
  new OctoAIClient({
    apiKey: server.token,
    environment: { default: server.url, imageGen: server.url, textGen: server.url },
  })

describe('npm @octoai/sdk 1.11.0', () => {
  it('uploads files and buffers in parts, waits, lists, gets and deletes', async () => {
    const { assetLibrary } = sdk()
    const told: number[] = []
    const { asset } = await assetLibrary.upload(
      loraFile,
      { assetType: 'lora', name: 'sdk-lora', data: { assetType: 'lora', engine, triggerWords: ['sks'] } },
      { onProgress: (part: number) => void told.push(part) },
    )
    expect(told.length).toBeGreaterThan(0)
    const got = await assetLibrary.get(asset.id)
    expect(got.asset).toMatchObject({
      id: asset.id,
      status: 'ready',
      sizeBytes: statSync(loraFile).size,
      data: { assetType: 'lora', engine, fileFormat: 'safetensors', triggerWords: ['sks'] },
    })
    expect((await assetLibrary.get('sdk-lora')).asset.id).toBe(asset.id)
    const text = Buffer.from('a line of text\n'.repeat(800_000))
    const file = await assetLibrary.upload(text, {
      assetType: 'file',
      name: 'sdk-text',
      description: 'three parts',
      data: { assetType: 'file', fileFormat: 'txt' },
    })
    const listed = await assetLibrary.list({ assetType: ['file', 'lora'], limit: 1 })
    expect(listed).toMatchObject({ total: 2, hasMore: true, data: [{ id: file.asset.id, sizeBytes: text.length }] })
    expect(await assetLibrary.delete(file.asset.id)).toMatchObject({ id: file.asset.id })
    await expect(assetLibrary.get(file.asset.id)).rejects.toMatchObject({ statusCode: 404 })
  })

  it('is told that a file is not what it should be', async () => {
    const upload = sdk().assetLibrary.upload(Buffer.from('no weights'), {
      assetType: 'lora',
      name: 'sdk-bad',
      data: { assetType: 'lora', engine },
    })
    await expect(upload).rejects.toThrow('unexpected status rejected')
    const { asset } = await sdk().assetLibrary.get('sdk-bad')
    expect(asset.statusDetails).not.toBe('')
    expect(asset.statusDetails).not.toContain('/')
  })
})

describe('npm @octoai/client 0.5.2', () => {
  type Library = Client['asset']
  // The client's own library has the original's address.
  const assets = (): Library => {
    const client = new Client(server.token)
    const LibraryClass = client.asset.constructor as new (client: Client, endpoint: string) => Library
    return new LibraryClass(client, `${server.url}/v1/assets`)
  }

  it('creates by file: small ones by URL, large ones as S3 objects', async () => {
    const small = await assets().create({
      file: pickleFile,
      asset_type: 'textual_inversion',
      name: 'client-inversion',
      description: 'a pickle',
      data: { asset_type: 'textual_inversion', engine, file_format: 'pt', trigger_words: ['zorb'] } as never,
    })
    const inspected = async ({ id }: { readonly id: string }) => {
      await expect.poll(async () => (await assets().get({ id })).status).not.toBe('uploaded')
      return assets().get({ id })
    }
    expect(['uploaded', 'ready']).toContain(small.status)
    expect(await inspected(small)).toMatchObject({ status: 'ready', data: { file_format: 'safetensors' } })
    const large = await assets().create({
      file: readFileSync(vaeFile),
      asset_type: 'vae',
      name: 'client-vae',
      description: '',
      transfer_api_type: 'sts',
      data: { asset_type: 'vae', engine } as never,
    })
    expect(await inspected(large)).toMatchObject({ status: 'ready', name: 'client-vae' })
    const found = await assets().list({ asset_type: 'vae' })
    expect(found).toMatchObject({ total: 1, data: [{ id: large.id }] })
  })

  it('creates by URL, which the server fetches', async () => {
    const elsewhere = createServer((_request, response) => void response.end(readFileSync(loraFile)))
    await new Promise<void>((resolve) => void elsewhere.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => void elsewhere.close())
    const { port } = elsewhere.address() as AddressInfo
    const { id } = await assets().create({
      url: `http://127.0.0.1:${port}/b-lora.safetensors`,
      asset_type: 'lora',
      name: 'client-url',
      description: '',
      data: { asset_type: 'lora', engine } as never,
    })
    await expect.poll(async () => (await assets().get({ id })).status).toBe('ready')
  })
})

it('PyPI octoai 1.11.0 creates from files, both ways', async () => {
  const script = path.join(import.meta.dirname, 'python/octoai_assets.py')
  const argv = [script, server.url, server.token, inversionFile, vaeFile]
  const { stdout } = await promisify(execFile)(pythonTool('python'), argv, {
    env: { ...process.env, AWS_ENDPOINT_URL_S3: server.url },
  })
  const { left, ...rest } = JSON.parse(stdout) as { left: number }
  expect(rest).toEqual({
    by_url: { status: 'ready', triggers: ['zorb'], size: statSync(inversionFile).size },
    by_sts: { status: 'ready', type: expect.stringMatching(/^fp/), public: false },
    listed: [true],
    deleted: true,
  })
  expect(left).toBeGreaterThan(0)
})

it('a picture of a checkpoint, a LoRA, an inversion and a VAE of one’s own', async () => {
  const { assetLibrary, imageGen } = sdk()
  await assetLibrary.upload(await writeTinyBSingleFile(), {
    assetType: 'checkpoint',
    name: 'my-model',
    data: { assetType: 'checkpoint', engine },
  })
  const order = { prompt: 'a zorb on a table', seed: 7, steps: 1, useRefiner: false } as const
  const own = {
    checkpoint: 'my-model',
    loras: { 'sdk-lora': 0.8 },
    textualInversions: { 'client-inversion': 'zorb' },
    vae: 'client-vae',
  }
  const made = await imageGen.generateSdxl({ ...order, ...own })
  const plain = await imageGen.generateSdxl(order)
  expect(await sharp(Buffer.from(made.images[0].imageB64!, 'base64')).metadata()).toMatchObject({ width: 1024 })
  expect(made.images[0].imageB64).not.toBe(plain.images[0].imageB64)
})
