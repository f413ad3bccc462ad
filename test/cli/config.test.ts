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

  it('cannot be changed', () => expect(Object.isFrozen(resolveConfig({}, linux))).toBe(true))
})
