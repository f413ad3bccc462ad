// Where OpenVINO's libraries lie: a folder that is named, what `sepia backend install` unpacked, a Python environment, or
// the system's own. The first place that has the C library counts, so that a wrong one there is told and not passed over.
import { readdirSync, readFileSync, statSync } from 'node:fs'
import path from 'node:path'
import { AppError } from '../../errors.ts'

/** The release whose functions and answers the backend is written for. */
export const openvinoRelease = '2026.4'

/** A C library that was found. */
export type OpenvinoPlace = { readonly folder: string; readonly library: string }

/** Beside libraries that Sepia unpacked: which files they are, so that half of them are not taken for all. */
export const manifestName = 'sepia-openvino.json'

/** What {@link manifestName} holds. */
export type OpenvinoManifest = {
  readonly version: string
  readonly wheel: string
  readonly files: readonly { readonly name: string; readonly sizeBytes: number }[]
}

/** libopenvino_c.so.2641, libopenvino_c.2641.dylib, openvino_c.dll, and the links that packagers add. */
const libraryPattern = /^(?:libopenvino_c(?:\.so(?:\.\d+)*|(?:\.\d+)*\.dylib)|openvino_c\.dll)$/

/** Folders where packages of the system put libraries, Homebrew's among them. */
const systemFolders: readonly string[] = [
  '/opt/homebrew/opt/openvino/lib',
  '/usr/local/opt/openvino/lib',
  '/home/linuxbrew/.linuxbrew/opt/openvino/lib',
  '/opt/intel/openvino/runtime/lib/intel64',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
  '/usr/local/lib',
  '/usr/lib64',
  '/usr/lib',
]

/**
 * The C library in the first of the folders that has one, else in the system's; null where none is. Throws
 * `device_unavailable` for a folder that Sepia unpacked and that is not whole.
 */
export function findOpenvino(
  folders: readonly string[],
  system: readonly string[] = systemFolders,
): OpenvinoPlace | null {
  for (const folder of [...folders, ...system]) {
    const name = entriesOf(folder).find((entry) => libraryPattern.test(entry))
    if (name === undefined) {
      checkWhole(folder)
      continue
    }
    checkWhole(folder)
    return { folder, library: path.join(folder, name) }
  }
  return null
}

/** Throws `device_unavailable` where a file of the folder's manifest is missing or has another size. */
function checkWhole(folder: string): void {
  const manifest = readManifest(folder)
  const wrong = manifest?.files.find(
    ({ name, sizeBytes }) => statSync(path.join(folder, name), { throwIfNoEntry: false })?.size !== sizeBytes,
  )
  if (wrong)
    throw new AppError(
      'device_unavailable',
      `openvino: ${folder} is not whole, ${wrong.name} is missing or cut short; "sepia backend install openvino" repairs it`,
    )
}

/** What Sepia unpacked into a folder; null where it did not. Throws `device_unavailable` where that cannot be read. */
export function readManifest(folder: string): OpenvinoManifest | null {
  try {
    return JSON.parse(readFileSync(path.join(folder, manifestName), 'utf8')) as OpenvinoManifest
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR') return null
    throw new AppError(
      'device_unavailable',
      `openvino: ${path.join(folder, manifestName)} cannot be read; "sepia backend install openvino" repairs it`,
      { cause: error },
    )
  }
}

function entriesOf(folder: string): readonly string[] {
  try {
    return readdirSync(folder).sort()
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' || code === 'ENOTDIR' || code === 'EACCES') return []
    throw error
  }
}

/** Folders of the PyPI package `openvino` in an active environment, the user's and the system's Pythons. */
export function pythonFolders(virtualEnv: string | null, home: string): readonly string[] {
  const roots = [
    ...(virtualEnv === null ? [] : [virtualEnv]),
    path.join(home, '.local'),
    '/usr/local',
    '/opt/homebrew',
    '/usr',
  ]
  const folders: string[] = []
  for (const root of roots) {
    folders.push(path.join(root, 'Lib', 'site-packages'))
    for (const name of entriesOf(path.join(root, 'lib')))
      if (/^python3(\.\d+)?$/.test(name))
        for (const kind of ['site-packages', 'dist-packages']) folders.push(path.join(root, 'lib', name, kind))
  }
  return folders.map((site) => path.join(site, 'openvino', 'libs'))
}
