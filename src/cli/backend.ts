// `sepia backend`: which engines there are, and OpenVINO in the data folder.
import { rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { findOpenvino, manifestName, readManifest } from '#engine/backends/openvino-places.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'
import { print, table } from './answer.ts'
import { installOpenvino } from './backend-install.ts'
import { installedOpenvino, openvinoFolders } from './backend-places.ts'
import { openvinoWheel } from './backend-wheels.ts'
import { oneOf } from './option-values.ts'
import type { Terminal } from './terminal.ts'

/** Options of all of its commands, as typed. */
export type BackendOptions = { readonly data?: string; readonly json?: boolean }

/** Options of `sepia backend install`, as typed. */
export type InstallBackendOptions = BackendOptions & { readonly wheel?: string }

/** Fetch OpenVINO, and print where it is and under which licence. Throws as {@link installOpenvino}. */
export async function installBackend(
  name: string,
  options: InstallBackendOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  oneOf('NAME', name, ['openvino'])
  const folder = installedOpenvino(dataDirOf(options, config))
  const wheel = openvinoWheel(process.platform, process.arch)
  if (options.wheel === '') throw new AppError('bad_argument', '--wheel must be a file, got ""')
  const file = options.wheel === undefined ? null : path.resolve(options.wheel)
  if (!options.json) terminal.stderr.write(`fetching ${wheel.file}\n`)
  const manifest = await installOpenvino({ wheel, file, target: folder, signal: terminal.signal })
  const licenses = path.join(folder, 'licenses')
  const report = { name: 'openvino', version: manifest.version, folder, licence: 'Apache-2.0', licenses }
  print(terminal, options.json, report, () =>
    [
      `OpenVINO ${manifest.version} is in ${folder}`,
      'Copyright Intel Corporation and contributors, Apache License 2.0; its text and those of what it brings',
      `(oneDNN, oneTBB and others) are in ${licenses}`,
    ].join('\n'),
  )
}

/** Print the engines that are found, the one that counts first. */
export async function listBackends(options: BackendOptions, config: Config, terminal: Terminal): Promise<void> {
  const dataDir = dataDirOf(options, config)
  const place = findOpenvino(openvinoFolders({ ...config, dataDir }))
  const backends = [
    { name: 'onnxruntime', version: null as string | null, path: null as string | null },
    ...(place ? [{ name: 'openvino', version: readManifest(place.folder)?.version ?? null, path: place.library }] : []),
  ]
  print(terminal, options.json, { backends }, () =>
    table(
      ['NAME', 'VERSION', 'PATH'],
      backends.map(({ name, path: library, version }) => [name, version ?? '', library ?? 'comes with Sepia']),
    ),
  )
}

/** Remove what {@link installBackend} unpacked. Throws `not_found` where there is nothing. */
export async function removeBackend(
  name: string,
  options: BackendOptions,
  config: Config,
  terminal: Terminal,
): Promise<void> {
  oneOf('NAME', name, ['openvino'])
  const folder = installedOpenvino(dataDirOf(options, config))
  const isOurs = await stat(path.join(folder, manifestName)).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return false
      throw error
    },
  )
  if (!isOurs) throw new AppError('not_found', `openvino: nothing of it is in ${folder}`)
  await rm(folder, { recursive: true })
  print(terminal, options.json, { name: 'openvino', folder, removed: true }, () => `removed ${folder}`)
}

function dataDirOf({ data }: BackendOptions, { dataDir }: Config): string {
  if (data === '') throw new AppError('bad_argument', '--data must be a folder, got ""')
  return data === undefined ? dataDir : path.resolve(data)
}
