// The options of `sepia serve` and `sepia worker`: from the command line, else from their variables, else their defaults.
import { statSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { backendNames, devices, precisions } from '#engine/backend.ts'
import type { MetricsPlace } from '#service/metrics-server.ts'
import type { AppConfig, OfficeConfig } from '../app.ts'
import { variableOf, type Config, type ServiceOption } from '../config.ts'
import { AppError } from '../errors.ts'
import { logLevels } from '../logger.ts'
import { shippedAssets } from './asset-places.ts'
import { openvinoFolders } from './backend-places.ts'
import { byteSize, oneOf, wholeNumber } from './option-values.ts'

/** What serve and worker share, as typed. */
export type OfficeOptions = {
  readonly data?: string
  readonly model?: string
  readonly refiner?: string
  readonly engines?: string
  readonly threads?: string
  readonly device?: string
  readonly backend?: string
  readonly precision?: string
  readonly memoryLimit?: string
  readonly cache?: string
  readonly cacheLimit?: string
  readonly grace?: string
  readonly logLevel?: string
}

/** The options of `sepia serve`, as typed. */
export type ServeOptions = OfficeOptions & {
  readonly host?: string
  readonly port?: string
  readonly role?: string
  readonly publicUrl?: string
  /** False for --no-auth. */
  readonly auth: boolean
  readonly priceList?: string
  readonly wordList?: string
  readonly cors?: readonly string[]
  readonly maxQueue?: string
  readonly publicAssets?: string
}

const roles = ['all', 'api'] as const
const loopback = /^(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1)$/

/** Check what serve and worker share. Throws `bad_argument`, `model_not_found`. */
export function resolveOffice(options: OfficeOptions, config: Config): OfficeConfig {
  const value = reader(options, config)
  const cores = availableParallelism()
  const engines = value('engines', number(1, 64), 1)
  const dataDir = options.data === undefined ? config.dataDir : folder('--data', options.data)
  return {
    dataDir,
    databaseUrl: config.databaseUrl,
    s3: config.s3,
    model: options.model === undefined ? model('SEPIA_MODEL', config.modelPath) : model('--model', options.model),
    refiner: refinerOf(options, config),
    engines,
    engine: {
      device: value('device', name(devices), 'cpu'),
      backend: value('backend', name(['auto', ...backendNames]), 'auto'),
      precision: value('precision', name(['auto', ...precisions]), 'auto'),
      openvinoFolders: openvinoFolders({ ...config, dataDir }),
      // The engines share the cores; more threads than cores wait for each other in busy loops.
      threads: value('threads', number(1, cores), Math.max(1, Math.floor(cores / engines))),
      cacheDir: options.cache === undefined ? config.cacheDir : folder('--cache', options.cache),
      cacheLimitBytes: value('cacheLimit', byteSize, config.cacheLimitBytes),
    },
    memoryLimitBytes: value('memoryLimit', byteSize, null),
    graceMs: value('grace', number(0, 86_400), 30) * 1000,
    logLevel: value('logLevel', name(logLevels), 'info'),
  }
}

/** Check all options of serve. Throws `bad_argument`, `model_not_found`. */
export function resolveServe(options: ServeOptions, config: Config): AppConfig {
  const office = resolveOffice(options, config)
  const { auth, cors, ...others } = options
  const value = reader({ ...others, cors: cors?.join(' '), noAuth: auth ? undefined : 'true' }, config)
  const host = value('host', hostName, '127.0.0.1')
  const noAuth = value('noAuth', yesOrNo, false)
  if (noAuth && !loopback.test(host))
    throw new AppError(
      'bad_argument',
      `--no-auth works on a loopback address only (127.0.0.1, ::1, localhost), got --host "${host}"`,
    )
  const role = value('role', name(roles), roles[0])
  if (role === 'api' && (config.databaseUrl === null || config.s3 === null))
    throw new AppError(
      'bad_argument',
      '--role api needs a database and a bucket that workers reach too: set DATABASE_URL and SEPIA_S3_BUCKET',
    )
  return {
    ...office,
    role,
    host,
    port: value('port', number(0, 65_535), 8000),
    publicUrl: value('publicUrl', origin, null),
    auth: !noAuth,
    firstToken: config.firstToken,
    metricsToken: config.metricsToken,
    priceListFile: value('priceList', file, null),
    wordListFile: value('wordList', file, null),
    corsOrigins: value('cors', origins, []),
    remote: config.remote,
    publicFolders: publicFoldersOf(office, value('publicAssets', existingFolder, null)),
    maxQueueLength: value('maxQueue', number(1, 1_000_000), 1000),
  }
}

/** The options of `sepia worker`, as typed. */
export type WorkerOptions = OfficeOptions & { readonly host?: string; readonly metricsPort?: string }

/** A worker, resolved and checked; `metrics` is null where it tells its numbers to nobody. */
export type WorkerConfig = OfficeConfig & { readonly metrics: MetricsPlace | null }

/** Check all options of worker. Throws `bad_argument`, `model_not_found`. */
export function resolveWorker(options: WorkerOptions, config: Config): WorkerConfig {
  const office = resolveOffice(options, config)
  if (config.databaseUrl === null || config.s3 === null)
    throw new AppError(
      'bad_argument',
      'sepia worker shares a database and a bucket with "sepia serve --role api": set DATABASE_URL and SEPIA_S3_BUCKET',
    )
  const value = reader(options, config)
  const port = value('metricsPort', number(0, 65_535), null)
  if (port === null) return { ...office, metrics: null }
  const host = value('host', hostName, '127.0.0.1')
  const token = config.metricsToken
  if (token === null && !loopback.test(host))
    throw new AppError(
      'bad_argument',
      `--metrics-port on another address than a loopback one needs SEPIA_METRICS_TOKEN, got --host "${host}"`,
    )
  return { ...office, metrics: { host, port, token } }
}

/** Reads an option as it was typed, else its variable, else its default. */
function reader(typed: Readonly<Partial<Record<ServiceOption, string | undefined>>>, config: Config) {
  return <Value, Default>(
    option: ServiceOption,
    parse: (name: string, text: string) => Value,
    fallback: Default,
  ): Value | Default => {
    const text = typed[option]
    if (text !== undefined) return parse(flagOf(option), text)
    const variable = config.service[option]
    return variable === undefined ? fallback : parse(variableOf(option), variable)
  }
}

const flagOf = (option: ServiceOption): string =>
  `--${option.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`

const number = (min: number, max: number) => (label: string, text: string) => wholeNumber(label, text, min, max)

const name =
  <Name extends string>(names: readonly Name[]) =>
  (label: string, text: string) =>
    oneOf(label, text, names)

function yesOrNo(label: string, text: string): boolean {
  return ['1', 'true', 'yes'].includes(oneOf(label, text, ['1', 'true', 'yes', '0', 'false', 'no']))
}

function hostName(label: string, text: string): string {
  if (/^[\w.:-]{1,255}$/.test(text)) return text
  throw new AppError('bad_argument', `${label} must be an address or a name of this machine, got "${text}"`)
}

/** An origin such as https://pictures.example, without a slash at its end. */
function origin(label: string, text: string): string {
  const url = URL.parse(text)
  const isOrigin = url !== null && /^https?:$/.test(url.protocol) && `${url.origin}/` === url.href
  if (!isOrigin)
    throw new AppError('bad_argument', `${label} must be an origin such as https://pictures.example, got "${text}"`)
  return url.origin
}

const origins = (label: string, text: string): readonly string[] =>
  text.split(/[\s,]+/).map((one) => origin(label, one))

function folder(label: string, text: string): string {
  if (text === '') throw new AppError('bad_argument', `${label} must be a folder, got ""`)
  return path.resolve(text)
}

/** The operator's folder, and the shipped examples where the model is the one that they are made for. */
function publicFoldersOf({ model }: OfficeConfig, own: string | null): readonly string[] {
  const isShipped = model === path.resolve(shippedAssets, '../pocket')
  return [...(isShipped ? [shippedAssets] : []), ...(own === null ? [] : [own])]
}

function existingFolder(label: string, text: string): string {
  const found = text === '' ? undefined : statSync(text, { throwIfNoEntry: false })
  if (!found?.isDirectory())
    throw new AppError('bad_argument', `${label} must be a folder that is there, got "${text}"`)
  return path.resolve(text)
}

function file(label: string, text: string): string {
  const found = text === '' ? undefined : statSync(text, { throwIfNoEntry: false })
  if (!found?.isFile()) throw new AppError('bad_argument', `${label} must be a file, got "${text}"`)
  return path.resolve(text)
}

function model(label: string, text: string): string {
  const place = path.resolve(text)
  if (text === '' || !statSync(place, { throwIfNoEntry: false }))
    throw new AppError('model_not_found', `${label}: there is no file or folder "${text}"`)
  return place
}

function refinerOf({ refiner }: OfficeOptions, { refinerPath }: Config): string | null {
  if (refiner !== undefined) return model('--refiner', refiner)
  return refinerPath === null ? null : model('SEPIA_REFINER', refinerPath)
}
