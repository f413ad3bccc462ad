// What the surroundings decide: environment variables in one step, defaults and checks in a second one. Nothing else
// reads the environment.
import { homedir, platform } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { AppError } from './errors.ts'

/** Variables that stand for options of `sepia serve` and `sepia worker`; the options' names are in {@link Config.service}. */
const serviceVariables = {
  host: 'SEPIA_HOST',
  metricsPort: 'SEPIA_METRICS_PORT',
  port: 'SEPIA_PORT',
  role: 'SEPIA_ROLE',
  engines: 'SEPIA_ENGINES',
  threads: 'SEPIA_THREADS',
  device: 'SEPIA_DEVICE',
  backend: 'SEPIA_BACKEND',
  precision: 'SEPIA_PRECISION',
  memoryLimit: 'SEPIA_MEMORY_LIMIT',
  cacheLimit: 'SEPIA_CACHE_LIMIT',
  publicAssets: 'SEPIA_PUBLIC_ASSETS',
  publicUrl: 'SEPIA_PUBLIC_URL',
  noAuth: 'SEPIA_NO_AUTH',
  priceList: 'SEPIA_PRICE_LIST',
  wordList: 'SEPIA_WORD_LIST',
  cors: 'SEPIA_CORS',
  maxQueue: 'SEPIA_MAX_QUEUE',
  grace: 'SEPIA_GRACE',
  logLevel: 'SEPIA_LOG_LEVEL',
} as const

/** An option of the service that may be set by a variable. */
export type ServiceOption = keyof typeof serviceVariables

/** The variable that stands for an option. */
export const variableOf = (option: ServiceOption): string => serviceVariables[option]

const otherVariables = [
  'SEPIA_MODEL',
  'SEPIA_REFINER',
  'SEPIA_CACHE',
  'SEPIA_OPENVINO',
  'SEPIA_DATA',
  'SEPIA_TOKEN',
  'SEPIA_METRICS_TOKEN',
  'SEPIA_S3_BUCKET',
  'SEPIA_S3_ENDPOINT',
  'SEPIA_S3_REGION',
  'SEPIA_S3_ACCESS_KEY_ID',
  'SEPIA_S3_SECRET_ACCESS_KEY',
  'SEPIA_S3_PREFIX',
  'SEPIA_ASSET_URLS',
  'SEPIA_ASSET_HUB',
  'SEPIA_HUB_TOKENS',
  'HF_TOKEN',
  'DATABASE_URL',
  'XDG_CACHE_HOME',
  'XDG_DATA_HOME',
  'LOCALAPPDATA',
  'VIRTUAL_ENV',
] as const

type Variable = (typeof otherVariables)[number] | (typeof serviceVariables)[ServiceOption]

/** The environment variables that Sepia knows, as they are; an empty one counts as absent. */
export type Env = { readonly [Name in Variable]?: string | undefined }

/** Defaults of this installation for this user. */
export type Config = {
  /** The model when a command names none. */
  readonly modelPath: string
  /** The refiner when a command names none; null: none. */
  readonly refinerPath: string | null
  /** Where prepared weights are kept. */
  readonly cacheDir: string
  readonly cacheLimitBytes: number
  /** The service's own folder: database, files, socket. */
  readonly dataDir: string
  /** A PostgreSQL server in place of the database in `dataDir`. */
  readonly databaseUrl: string | null
  /** A bucket in place of the files in `dataDir`; without keys the SDK looks for some in its usual places. */
  readonly s3: {
    readonly bucket: string
    readonly endpoint: string | null
    readonly region: string
    readonly accessKeyId: string | null
    readonly secretAccessKey: string | null
    readonly prefix: string
  } | null
  /** What the server may fetch because an account asks for it; null where it may not. */
  readonly remote: {
    readonly urls: { readonly allowLoopback: boolean } | null
    /** Tokens by the names that requests call them by. */
    readonly hub: { readonly endpoint: string; readonly tokens: Readonly<Record<string, string>> } | null
  }
  /** Where OpenVINO's libraries are looked for: in `folder` alone where it is set. */
  readonly openvino: { readonly folder: string | null; readonly virtualEnv: string | null; readonly home: string }
  /** Where the command itself looks for repositories, and its user's token. */
  readonly hub: { readonly endpoint: string; readonly token: string | null }
  /** The first account's token, made up when null. */
  readonly firstToken: string | null
  /** What /metrics asks for; null: a token of the account "default". */
  readonly metricsToken: string | null
  /** Options of the service as their variables have them, unchecked. */
  readonly service: Readonly<Partial<Record<ServiceOption, string>>>
}

/** Read the environment, unchecked. */
export function readEnv(): Env {
  const names = [...otherVariables, ...Object.values(serviceVariables)]
  return Object.fromEntries(names.map((name) => [name, process.env[name]]))
}

/** Apply defaults; frozen. Throws `bad_argument` for a variable that cannot be used. */
export function resolveConfig(env: Env, system = { platform: platform(), home: homedir() }): Config {
  const service = Object.entries(serviceVariables).flatMap(([option, name]) => (env[name] ? [[option, env[name]]] : []))
  return Object.freeze({
    modelPath: env.SEPIA_MODEL ? path.resolve(env.SEPIA_MODEL) : shippedModel,
    refinerPath: env.SEPIA_REFINER ? path.resolve(env.SEPIA_REFINER) : null,
    cacheDir: env.SEPIA_CACHE ? path.resolve(env.SEPIA_CACHE) : path.join(cacheHome(env, system), 'sepia'),
    cacheLimitBytes: 64 * 2 ** 30,
    dataDir: env.SEPIA_DATA ? path.resolve(env.SEPIA_DATA) : defaultDataDir(env, system),
    databaseUrl: env.DATABASE_URL || null,
    s3: s3Of(env),
    remote: Object.freeze({ urls: urlsOf(env), hub: serverHubOf(env) }),
    openvino: Object.freeze({
      folder: env.SEPIA_OPENVINO ? path.resolve(env.SEPIA_OPENVINO) : null,
      virtualEnv: env.VIRTUAL_ENV || null,
      home: system.home,
    }),
    hub: Object.freeze({ endpoint: endpointOf(env), token: env.HF_TOKEN || null }),
    firstToken: env.SEPIA_TOKEN || null,
    metricsToken: env.SEPIA_METRICS_TOKEN || null,
    service: Object.freeze(Object.fromEntries(service)),
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

/** The service's folder below the user's one for files that cannot be made again. */
function defaultDataDir(env: Env, { platform, home }: { platform: NodeJS.Platform; home: string }): string {
  if (platform === 'win32') return path.join(env.LOCALAPPDATA || path.join(home, 'AppData', 'Local'), 'sepia-data')
  if (platform === 'darwin') return path.join(home, 'Library', 'Application Support', 'sepia')
  if (!env.XDG_DATA_HOME) return path.join(home, '.local', 'share', 'sepia')
  if (!path.isAbsolute(env.XDG_DATA_HOME))
    throw new AppError('bad_argument', `XDG_DATA_HOME must be an absolute path, got "${env.XDG_DATA_HOME}"`)
  return path.join(env.XDG_DATA_HOME, 'sepia')
}

function s3Of(env: Env): Config['s3'] {
  if (!env.SEPIA_S3_BUCKET) {
    const alone = otherVariables.find((name) => name.startsWith('SEPIA_S3_') && env[name])
    if (alone)
      throw new AppError('bad_argument', `${alone} is set, but SEPIA_S3_BUCKET, the bucket that it is about, is not`)
    return null
  }
  return Object.freeze({
    bucket: env.SEPIA_S3_BUCKET,
    endpoint: env.SEPIA_S3_ENDPOINT || null,
    region: env.SEPIA_S3_REGION || 'us-east-1',
    accessKeyId: env.SEPIA_S3_ACCESS_KEY_ID || null,
    secretAccessKey: env.SEPIA_S3_SECRET_ACCESS_KEY || null,
    prefix: env.SEPIA_S3_PREFIX || '',
  })
}

const hubEndpoint = 'https://huggingface.co'

function urlsOf({ SEPIA_ASSET_URLS: text }: Env): Config['remote']['urls'] {
  if (!text || text === 'no') return null
  if (text !== 'yes' && text !== 'loopback')
    throw new AppError('bad_argument', `SEPIA_ASSET_URLS must be yes, no or loopback, got "${text}"`)
  return Object.freeze({ allowLoopback: text === 'loopback' })
}

function serverHubOf(env: Env): Config['remote']['hub'] {
  const { SEPIA_ASSET_HUB: text, SEPIA_HUB_TOKENS: tokens } = env
  const isOff = !text || text === 'no'
  if (isOff && tokens)
    throw new AppError('bad_argument', 'SEPIA_HUB_TOKENS is set, but SEPIA_ASSET_HUB, which allows to use them, is not')
  return isOff ? null : Object.freeze({ endpoint: endpointOf(env), tokens: Object.freeze(tokensOf(tokens ?? '')) })
}

function endpointOf({ SEPIA_ASSET_HUB: text }: Env): string {
  if (!text || text === 'yes' || text === 'no') return hubEndpoint
  const url = URL.parse(text)
  if (!url || !/^https?:$/.test(url.protocol) || `${url.origin}/` !== url.href)
    throw new AppError(
      'bad_argument',
      `SEPIA_ASSET_HUB must be yes, no or an origin such as ${hubEndpoint}, got "${text}"`,
    )
  return url.origin
}

/** `NAME=TOKEN` several times, with spaces or commas between. */
function tokensOf(text: string): Record<string, string> {
  const pairs = text.split(/[\s,]+/).filter((pair) => pair !== '')
  return Object.fromEntries(
    pairs.map((pair) => {
      const match = /^([\w-]{1,64})=(\S+)$/.exec(pair)
      // The pair may be a token without its name, which is not for a log.
      if (!match) throw new AppError('bad_argument', 'SEPIA_HUB_TOKENS must be NAME=TOKEN, with spaces between several')
      return [match[1], match[2]]
    }),
  )
}
