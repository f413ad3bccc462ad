// One upload in an engine process: what is it, and can it be used here? It was written by a stranger, so that nothing of
// it is believed but its bytes.
import type { AssetReport } from '#engine/weights/asset-report.ts'
import { AppError } from '../errors.ts'
import type { AssetInspection } from './protocol.ts'

/**
 * Describe an upload, and convert it where it is no safetensors. Throws `bad_file`, `wrong_architecture`,
 * `missing_tensors` or `unsupported` with a reason for its owner, without any path of this machine.
 */
export async function inspectAsset({ kind }: AssetInspection): Promise<AssetReport> {
  throw new AppError('unsupported', `kind: uploads of ${kind} cannot be inspected yet`, { field: 'kind' })
}
