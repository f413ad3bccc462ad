import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { AppError } from '../../errors.ts'
import type { Checkpoint, TokenizerData } from './checkpoint.ts'
import { openDiffusersFolder } from './diffusers-folder.ts'
import { openSingleFile } from './single-file.ts'

/**
 * Open a Stable Diffusion XL model: a single safetensors file or a diffusers folder. Only headers and configs are read.
 * Throws `model_not_found`, `bad_file` for damaged files, `wrong_architecture` for models of another kind,
 * `missing_tensors` for incomplete ones. A single file with another vocabulary than CLIP's and without a tokenizer beside
 * it takes `tokenizer` if that has as many tokens.
 */
export async function openCheckpoint(path: string, tokenizer: TokenizerData | null = null): Promise<Checkpoint> {
  const absolute = resolve(path)
  const info = await stat(absolute).catch((error: unknown) => {
    const code = error instanceof Error && 'code' in error ? error.code : null
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new AppError('model_not_found', `model ${path} does not exist`, { cause: error })
    throw new AppError('bad_file', `model ${path} cannot be read (${String(code)})`, { cause: error })
  })
  return info.isDirectory() ? await openDiffusersFolder(absolute) : await openSingleFile(absolute, tokenizer)
}
