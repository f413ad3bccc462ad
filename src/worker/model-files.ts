// What a model's weights lie in.
import { stat } from 'node:fs/promises'
import type { Checkpoint, Component } from '#engine/weights/checkpoint.ts'

/** The networks that a model has. */
export function componentsOf({ textEncoder, textEncoder2, unet, vae }: Checkpoint): Component<object>[] {
  return [textEncoder, textEncoder2, unet, vae].filter((component) => component !== null)
}

/** Size and time of every file that a model's weights lie in; a file that is gone has none. */
export async function signatureOf(checkpoint: Checkpoint): Promise<string> {
  const files = new Set<string>()
  for (const { weights } of componentsOf(checkpoint))
    for (const { source } of weights.values()) if ('file' in source) files.add(source.file)
  const parts: string[] = []
  for (const file of files) {
    try {
      const { ino, mtimeNs, size } = await stat(file, { bigint: true })
      parts.push(`${file} ${size} ${mtimeNs} ${ino}`)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
      parts.push(file)
    }
  }
  return parts.sort().join('\n')
}
