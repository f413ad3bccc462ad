// The LoRAs of a task, opened and held against its model.
import { basename } from 'node:path'
import type { Checkpoint } from '#engine/weights/checkpoint.ts'
import { loraNetworksOf, type LoraNetworkName } from '#engine/weights/lora/lora-networks.ts'
import { networkLoras, type AppliedLora, type NetworkLoras } from '#engine/weights/lora/network-loras.ts'
import { openLora } from '#engine/weights/lora/open-lora.ts'
import { AppError } from '../errors.ts'
import type { EngineChoice, GenerateTask, TaskFiles } from './protocol.ts'

/** What the LoRAs of a task do to each network of its base model. */
export type TaskLoras = Readonly<Record<LoraNetworkName, NetworkLoras | null>>

/**
 * Open the LoRAs of a task; of their tensors nothing is read yet. Throws `wrong_architecture` with the field `loras` when
 * one does not fit the model whole, also where its strength is 0.
 */
export async function openTaskLoras(
  task: GenerateTask,
  files: TaskFiles,
  checkpoint: Checkpoint,
  { backend }: Pick<EngineChoice, 'backend'>,
): Promise<TaskLoras> {
  const networks = loraNetworksOf(checkpoint)
  const loras: AppliedLora[] = []
  for (const { asset, scale } of task.loras) {
    const path = files.assets[asset]
    if (path === undefined) throw new AppError('internal', `loras: the task names ${asset} and no file is given`)
    if (!Number.isFinite(scale))
      throw new AppError('bad_argument', `loras: the scale ${scale} is no finite number`, { field: 'loras' })
    try {
      loras.push({ lora: await openLora(path, networks), hash: asset, strength: scale })
    } catch (error) {
      if (!(error instanceof AppError)) throw error
      // A client is told which one it is, and nothing of this machine's folders.
      const message = error.message.replaceAll(path, basename(path))
      throw new AppError(error.code, message, { cause: error, field: 'loras' })
    }
  }
  const options = { mergeConvolutions: backend === 'openvino' }
  return {
    unet: networkLoras(loras, 'unet', options),
    textEncoder: networkLoras(loras, 'textEncoder', options),
    textEncoder2: networkLoras(loras, 'textEncoder2', options),
  }
}
