// `sepia models`: from a hub into the data folder, and from there into a task.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { locateModel } from '../../src/cli/asset-places.ts'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig, type Config } from '../../src/config.ts'
import { hubCommit, startHub } from '../support/hub-server.ts'
import { temporaryFolder } from '../support/temporary-folder.ts'

/** Run a command here; its standard output and error, and its exit code. */
async function run(config: Config, ...argv: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const code = await runCli(argv, { stdout, stderr, signal: new AbortController().signal }, () => config)
  stdout.end()
  stderr.end()
  return { code, stdout: await text(stdout), stderr: await text(stderr) }
}

const folderModel = {
  'model_index.json': '{}',
  'README.md': 'words',
  'unet/config.json': '{}',
  'unet/diffusion_pytorch_model.safetensors': 'weights',
  'vae/config.json': '{}',
}

async function configFor(hub: { readonly origin: string }): Promise<{ config: Config; models: string }> {
  const data = await temporaryFolder('models')
  return { config: resolveConfig({ SEPIA_DATA: data, SEPIA_ASSET_HUB: hub.origin }), models: path.join(data, 'models') }
}

describe('sepia models', () => {
  it('pulls a diffusers folder once, and finds it by its name', async () => {
    await using hub = await startHub({ 'ann/sd.xl': folderModel })
    const { config, models } = await configFor(hub)
    const pulled = await run(config, 'models', 'pull', 'hf:ann/sd.xl@v1')
    expect(pulled).toEqual({
      code: 0,
      stdout: `${path.join(models, 'sd-xl')}  fetched, 13 B; use it as --model sd-xl\n`,
      stderr: '',
    })
    const files = readdirSync(path.join(models, 'sd-xl'), { recursive: true, encoding: 'utf8' }).sort()
    expect(files.filter((file) => /\.\w+$/.test(file))).toEqual([
      'model_index.json',
      'unet/config.json',
      'unet/diffusion_pytorch_model.safetensors',
      'vae/config.json',
    ])
    expect(readFileSync(path.join(models, 'sd-xl/unet/diffusion_pytorch_model.safetensors'), 'utf8')).toBe('weights')
    expect(existsSync(path.join(models, '.partial/sd-xl-0123456789abcdef'))).toBe(false)
    expect(await locateModel('--model', 'sd-xl', {}, config)).toBe(path.join(models, 'sd-xl'))

    const downloads = (): number => hub.asked.filter(({ url }) => url?.includes('/resolve/')).length
    expect(downloads()).toBe(4)
    expect((await run(config, 'models', 'pull', 'ann/sd.xl')).stdout).toContain('is there already')
    expect(downloads()).toBe(4)
    const { models: listed } = JSON.parse((await run(config, 'models', 'list', '--json')).stdout) as { models: unknown }
    const files4 = [
      'model_index.json',
      'unet/config.json',
      'unet/diffusion_pytorch_model.safetensors',
      'vae/config.json',
    ]
    expect(listed).toEqual([
      {
        name: 'sd-xl',
        path: path.join(models, 'sd-xl'),
        sizeBytes: 13,
        repo: 'ann/sd.xl',
        commit: hubCommit,
        files: files4,
      },
    ])
  })

  it('pulls one file under a name, and nothing over another model', async () => {
    await using hub = await startHub({ 'ann/one': { 'a.safetensors': 'aa', 'b.safetensors': 'bbb' } })
    const { config, models } = await configFor(hub)
    const json = ['--file', 'b.safetensors', '--name', 'bee', '--json']
    expect(JSON.parse((await run(config, 'models', 'pull', 'ann/one', ...json)).stdout)).toEqual({
      name: 'bee',
      path: path.join(models, 'bee.safetensors'),
      sizeBytes: 3,
      repo: 'ann/one',
      commit: hubCommit,
    })
    expect(readFileSync(path.join(models, 'bee.safetensors'), 'utf8')).toBe('bbb')
    const { code, stderr } = await run(config, 'models', 'pull', 'ann/one:a.safetensors', '--name', 'bee')
    expect([code, stderr]).toEqual([
      2,
      `sepia: ${path.join(models, 'bee.safetensors')} is there already and comes from ann/one at 0123456789ab; remove it, or give another --name\n`,
    ])
  })

  it('goes on with what an earlier try left', async () => {
    await using hub = await startHub({ 'ann/one': { 'a.safetensors': 'abcdef' } })
    const { config, models } = await configFor(hub)
    const partial = path.join(models, '.partial/a-0123456789abcdef')
    mkdirSync(partial, { recursive: true })
    writeFileSync(path.join(partial, 'a.safetensors.part'), 'abc')
    await run(config, 'models', 'pull', 'ann/one')
    expect(hub.asked.at(-1)?.headers.range).toBe('bytes=3-')
    expect(readFileSync(path.join(models, 'a.safetensors'), 'utf8')).toBe('abcdef')
  })

  it.each([
    [['ann'], 2, 'REPO must be OWNER/REPOSITORY[@REVISION][:FILE], got "ann"'],
    [['ann/none'], 1, 'REPO: there is no repository ann/none at main, or a token is needed'],
    [['ann/one'], 2, 'REPO: ann/one has several; name one: a.safetensors, b.safetensors'],
    [['ann/one:a.safetensors', '--file', 'x'], 2, '--file and ":a.safetensors" name two files; only one can be meant'],
    [['ann/old'], 2, 'REPO: old.ckpt is no safetensors file; "sepia assets add" converts other formats'],
    [['ann/one:a.safetensors', '--name', 'a b'], 2, '--name must be 1 to 64 letters, digits, _ and -, got "a b"'],
  ])('refuses to pull %j', async (argv, code, message) => {
    const contents = { 'ann/one': { 'a.safetensors': 'a', 'b.safetensors': 'b' }, 'ann/old': { 'old.ckpt': 'o' } }
    await using hub = await startHub(contents)
    const { config, models } = await configFor(hub)
    expect(await run(config, 'models', 'pull', ...argv)).toEqual({ code, stdout: '', stderr: `sepia: ${message}\n` })
    expect(existsSync(models)).toBe(false)
  })
})
