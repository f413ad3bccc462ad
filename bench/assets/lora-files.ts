// LoRAs with random weights on every attention of a model, written in diffusers' names; for measuring, not for looking at.
import { randomBytes } from 'node:crypto'
import path from 'node:path'
import { openSafetensors } from '#tensor/safetensors.ts'
import { writeSafetensors, type NewTensor } from '#tensor/safetensors-writer.ts'

/** Write a LoRA of `rank` for the UNet of a diffusers folder; no two are the same. */
export async function writeLora(model: string, rank: number, target: string): Promise<void> {
  const { tensors } = await openSafetensors(path.join(model, 'unet/diffusion_pytorch_model.safetensors'))
  const entries: NewTensor[] = []
  for (const [name, { shape }] of tensors) {
    const module = /^(.*\.attn[12]\.to_(?:q|k|v|out\.0))\.weight$/.exec(name)?.[1]
    if (module === undefined) continue
    entries.push({ name: `unet.${module}.lora_A.weight`, dtype: 'F32', shape: [rank, shape[1]] })
    entries.push({ name: `unet.${module}.lora_B.weight`, dtype: 'F32', shape: [shape[0], rank] })
  }
  await writeSafetensors(target, entries, ({ shape }) => [smallNumbers(shape[0] * shape[1])])
}

function smallNumbers(count: number): Uint8Array {
  const bytes = randomBytes(count)
  const values = Float32Array.from(bytes, (byte) => (byte - 127.5) * 1e-5)
  return new Uint8Array(values.buffer)
}
