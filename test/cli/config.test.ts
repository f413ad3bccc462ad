import { existsSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { resolveConfig } from '../../src/config.ts'

const linux = { platform: 'linux', home: '/home/ada' } as const

describe('the configuration', () => {
  it('names the shipped model', () => expect(existsSync(resolveConfig({}, linux).modelPath)).toBe(true))

  it.each([
    [{}, linux, '/home/ada/.cache/sepia'],
    [{ XDG_CACHE_HOME: '/var/cache/ada' }, linux, '/var/cache/ada/sepia'],
    [{ XDG_CACHE_HOME: '' }, linux, '/home/ada/.cache/sepia'],
    [{}, { platform: 'darwin', home: '/Users/ada' } as const, '/Users/ada/Library/Caches/sepia'],
    [{ LOCALAPPDATA: '/c/Local' }, { platform: 'win32', home: '/c/ada' } as const, '/c/Local/sepia'],
    [{ SEPIA_CACHE: '/data/sepia', XDG_CACHE_HOME: 'relative' }, linux, '/data/sepia'],
  ])('puts the cache where the system keeps such files: %o', (env, system, folder) =>
    expect(resolveConfig(env, system).cacheDir).toBe(folder),
  )

  it('takes paths from the environment relative to the current folder', () =>
    expect(resolveConfig({ SEPIA_MODEL: 'a/b.safetensors' }, linux).modelPath).toBe(path.resolve('a/b.safetensors')))

  it('refuses a relative XDG_CACHE_HOME', () =>
    expect(() => resolveConfig({ XDG_CACHE_HOME: 'cache' }, linux)).toThrow(
      'XDG_CACHE_HOME must be an absolute path, got "cache"',
    ))

  it.each([
    [{}, linux, '/home/ada/.local/share/sepia'],
    [{ XDG_DATA_HOME: '/srv' }, linux, '/srv/sepia'],
    [{ SEPIA_DATA: '/srv/pictures', XDG_DATA_HOME: 'relative' }, linux, '/srv/pictures'],
    [{}, { platform: 'darwin', home: '/Users/ada' } as const, '/Users/ada/Library/Application Support/sepia'],
    [{ LOCALAPPDATA: '/c/Local' }, { platform: 'win32', home: '/c/ada' } as const, '/c/Local/sepia-data'],
  ])('puts the data where the system keeps such files: %o', (env, system, folder) =>
    expect(resolveConfig(env, system).dataDir).toBe(folder),
  )

  it('hands on options of the service as they are set, and empty ones not', () =>
    expect(resolveConfig({ SEPIA_PORT: '80', SEPIA_HOST: '', SEPIA_CORS: 'a b' }, linux).service).toEqual({
      port: '80',
      cors: 'a b',
    }))

  it('takes a bucket with its place, and nothing about a bucket without one', () => {
    expect(resolveConfig({ SEPIA_S3_BUCKET: 'b', SEPIA_S3_ENDPOINT: 'http://x:1' }, linux).s3).toEqual({
      bucket: 'b',
      endpoint: 'http://x:1',
      region: 'us-east-1',
      accessKeyId: null,
      secretAccessKey: null,
      prefix: '',
    })
    expect(resolveConfig({}, linux).s3).toBeNull()
    expect(() => resolveConfig({ SEPIA_S3_REGION: 'eu' }, linux)).toThrow(
      'SEPIA_S3_REGION is set, but SEPIA_S3_BUCKET, the bucket that it is about, is not',
    )
  })

  it('lets the server fetch nothing unless it is told to', () => {
    const endpoint = 'https://huggingface.co'
    expect(resolveConfig({ HF_TOKEN: 'hf_1' }, linux)).toMatchObject({
      remote: { urls: null, hub: null },
      hub: { endpoint, token: 'hf_1' },
    })
    const all = { SEPIA_ASSET_URLS: 'yes', SEPIA_ASSET_HUB: 'yes', SEPIA_HUB_TOKENS: 'ann=hf_1, bob=hf_2' }
    expect(resolveConfig(all, linux).remote).toEqual({
      urls: { allowLoopback: false },
      hub: { endpoint, tokens: { ann: 'hf_1', bob: 'hf_2' } },
    })
    const own = resolveConfig({ SEPIA_ASSET_URLS: 'loopback', SEPIA_ASSET_HUB: 'http://hub.lan:81' }, linux)
    expect(own.remote).toEqual({ urls: { allowLoopback: true }, hub: { endpoint: 'http://hub.lan:81', tokens: {} } })
    expect(own.hub.endpoint).toBe('http://hub.lan:81')
  })

  it.each([
    [{ SEPIA_ASSET_URLS: 'on' }, 'SEPIA_ASSET_URLS must be yes, no or loopback, got "on"'],
    [{ SEPIA_ASSET_HUB: 'https://x/y' }, 'SEPIA_ASSET_HUB must be yes, no or an origin such as'],
    [{ SEPIA_ASSET_HUB: 'yes', SEPIA_HUB_TOKENS: 'hf_secret' }, 'SEPIA_HUB_TOKENS must be NAME=TOKEN, with spaces'],
    [{ SEPIA_HUB_TOKENS: 'a=b' }, 'SEPIA_HUB_TOKENS is set, but SEPIA_ASSET_HUB, which allows to use them, is not'],
  ])('refuses %o', (env, message) => expect(() => resolveConfig(env, linux)).toThrow(message))

  it('cannot be changed', () => expect(Object.isFrozen(resolveConfig({}, linux))).toBe(true))
})
