// Where OpenVINO's libraries may lie, for whoever starts an engine process.
import { existsSync } from 'node:fs'
import path from 'node:path'
import { findOpenvino, pythonFolders } from '#engine/backends/openvino-places.ts'
import type { Config } from '../config.ts'
import { AppError } from '../errors.ts'

/** The folder of a data folder that "sepia backend install openvino" unpacks into. */
export function installedOpenvino(dataDir: string): string {
  return path.join(dataDir, 'openvino')
}

/**
 * Folders to look into before the system's: the one of SEPIA_OPENVINO alone where it is set, else what was installed into
 * the data folder, then Python environments. Throws `bad_argument` where SEPIA_OPENVINO has no library.
 */
export function openvinoFolders({ openvino, dataDir }: Pick<Config, 'openvino' | 'dataDir'>): readonly string[] {
  const { folder, home, virtualEnv } = openvino
  if (folder === null) return [installedOpenvino(dataDir), ...pythonFolders(virtualEnv, home)]
  if (!existsSync(folder)) throw new AppError('bad_argument', `SEPIA_OPENVINO: there is no folder ${folder}`)
  if (findOpenvino([folder], []) === null)
    throw new AppError(
      'bad_argument',
      `SEPIA_OPENVINO must be a folder with OpenVINO's C library (libopenvino_c), ${folder} has none`,
    )
  return [folder]
}
