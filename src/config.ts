// What the surroundings decide: environment variables in one step, defaults and checks in a second one. Nothing else
// reads the environment.
import { homedir, platform } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { AppError } from './errors.ts'

/** The environment variables that Sepia knows, as they are; an empty one counts as absent. */
export type Env = {
  readonly SEPIA_MODEL?: string | undefined
  readonly SEPIA_CACHE?: string | undefined
  readonly XDG_CACHE_HOME?: string | undefined
  readonly LOCALAPPDATA?: string | undefined
}

/** Defaults of this installation for this user. */
export type Config = {
  /** The model when a command names none. */
  readonly modelPath: string
  /** Where prepared weights are kept. */
  readonly cacheDir: string
  readonly cacheLimitBytes: number
}

/** Read the environment, unchecked. */
export function readEnv(): Env {
  const { SEPIA_MODEL, SEPIA_CACHE, XDG_CACHE_HOME, LOCALAPPDATA } = process.env
  return { SEPIA_MODEL, SEPIA_CACHE, XDG_CACHE_HOME, LOCALAPPDATA }
}

/** Apply defaults; frozen. Throws `bad_argument` for a variable that cannot be used. */
export function resolveConfig(env: Env, system = { platform: platform(), home: homedir() }): Config {
  return Object.freeze({
    modelPath: env.SEPIA_MODEL ? path.resolve(env.SEPIA_MODEL) : shippedModel,
    cacheDir: env.SEPIA_CACHE ? path.resolve(env.SEPIA_CACHE) : path.join(cacheHome(env, system), 'sepia'),
    cacheLimitBytes: 64 * 2 ** 30,
  })
}

const shippedModel = fileURLToPath(new URL('../models/pocket', import.meta.url))

/** The user's folder for files that can be made again, by each system's own custom. */
function cacheHome(env: Env, { platform, home }: { platform: NodeJS.Platform; home: string }): string {
  if (platform === 'win32') return env.LOCALAPPDATA || path.join(home, 'AppData', 'Local')
  if (platform === 'darwin') return path.join(home, 'Library', 'Caches')
  if (!env.XDG_CACHE_HOME) return path.join(home, '.cache')
  // https://specifications.freedesktop.org/basedir-spec/latest/ declares relative paths invalid.
  if (!path.isAbsolute(env.XDG_CACHE_HOME))
    throw new AppError('bad_argument', `XDG_CACHE_HOME must be an absolute path, got "${env.XDG_CACHE_HOME}"`)
  return env.XDG_CACHE_HOME
}
