// What a calibration has decided, kept in the cache folder under the content hash of the network that it was made of.
import { createHash } from 'node:crypto'
import { open, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { cacheFault, makeFolder } from '../weights/cache-folder.ts'
import { withLock } from '../weights/cache-lock.ts'
import { rangeMethods, type CalibratedLayer } from './choose-layers.ts'
import { normBefore, type QuantizedLayers } from './quantization.ts'
import { isSmoothing } from './smoothing.ts'

/** Raised when the same network has to be calibrated differently. */
export const calibrationVersion = 4

/** How a calibration was made: what its file is named by, beside the network. */
export type CalibrationSettings = {
  readonly prompts: readonly string[]
  readonly numInferenceSteps: number
  readonly guidanceScale: number
  /** Latent rows and columns. */
  readonly latentEdge: number
  readonly weightLimit: 127 | 64
}

export type Calibration = {
  readonly version: number
  /** Content hash of the network. */
  readonly network: string
  readonly settings: CalibrationSettings
  readonly layers: readonly CalibratedLayer[]
  /** Relative error of the network's output at some of the evaluations, by timestep. */
  readonly outputErrors: readonly { readonly timestep: number; readonly error: number }[]
}

export type CalibrationPlace = { readonly cacheDir: string; readonly scratchDir: string }

/** The layers of a calibration that compute in 8-bit integers. */
export function calibratedLayers({ layers }: Pick<Calibration, 'layers'>): QuantizedLayers {
  return new Map(
    layers.flatMap(({ method, path: layer, range, smoothing }) =>
      range === null ? [] : [[layer, { range, smoothing, norm: method === 'norm' ? normBefore(layer) : null }]],
    ),
  )
}

/** Where the calibration of a network lies. */
export function calibrationFile(cacheDir: string, network: string, settings: CalibrationSettings): string {
  const key = `${network} calibration v${calibrationVersion} ${JSON.stringify(settings)}`
  return path.resolve(cacheDir, 'calibrations', `${createHash('sha256').update(key).digest('hex')}.json`)
}

/** The calibration in the cache; null where there is none, or a damaged one, which is told and then made anew. */
export async function readCalibration(
  cacheDir: string,
  network: string,
  settings: CalibrationSettings,
  onDamaged: (file: string) => void = () => {},
): Promise<Calibration | null> {
  const file = calibrationFile(cacheDir, network, settings)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw cacheFault(error, cacheDir)
  }
  const found = parseCalibration(text, network)
  if (!found) onDamaged(file)
  return found
}

/** The calibration that `make` makes where the cache has none that is whole; others who want it wait. */
export async function cachedCalibration(
  { cacheDir, scratchDir }: CalibrationPlace,
  network: string,
  settings: CalibrationSettings,
  make: () => Promise<Calibration>,
  onDamaged: (file: string) => void,
): Promise<Calibration> {
  const known = await readCalibration(cacheDir, network, settings, onDamaged)
  if (known) return known
  const target = calibrationFile(cacheDir, network, settings)
  const folder = path.dirname(target)
  try {
    await makeFolder(folder)
    return await withLock(target, scratchDir, async () => {
      const made = (await readCalibration(cacheDir, network, settings)) ?? (await make())
      await writeAside(path.join(scratchDir, path.basename(target)), target, JSON.stringify(made))
      return made
    })
  } catch (error) {
    throw cacheFault(error, folder)
  }
}

/** A calibration of this version for this network; null for anything else. */
export function parseCalibration(text: string, network: string): Calibration | null {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return null
  }
  if (typeof value !== 'object' || value === null) return null
  const found = value as Partial<Calibration>
  if (found.version !== calibrationVersion || found.network !== network) return null
  if (!Array.isArray(found.layers) || !found.layers.every(isLayer) || !Array.isArray(found.outputErrors)) return null
  return value as Calibration
}

function isLayer(value: unknown): value is CalibratedLayer {
  if (typeof value !== 'object' || value === null) return false
  const { method, path: layer, range, smoothing } = value as Partial<CalibratedLayer>
  if (typeof layer !== 'string') return false
  if (!rangeMethods.some((known) => known === method)) return false
  if (method === 'norm' && normBefore(layer) === null) return false
  if (range !== null && !(typeof range?.scale === 'number' && range.scale > 0 && Number.isInteger(range.zeroPoint)))
    return false
  return smoothing === null || isSmoothing(smoothing)
}

async function writeAside(scratch: string, target: string, text: string): Promise<void> {
  try {
    {
      await using handle = await open(scratch, 'w')
      await handle.writeFile(text)
      await handle.datasync()
    }
    await rename(scratch, target)
  } catch (error) {
    await rm(scratch, { force: true })
    throw error
  }
}
