// Pickles with code, as Python and torch write them (tools/reference/hostile.py): what stops each of them is told.
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { openTorchFile } from '#tensor/torch-file.ts'
import { goldenFolder } from '../support/golden.ts'

const folder = join(goldenFolder, 'hostile')
const names = readdirSync(folder).filter((name) => name.endsWith('.pt') && name !== 'harmless.pt')

/** What the message names, for files that are there in two protocols or one. */
const reasons: Readonly<Record<string, RegExp>> = {
  system: /"posix\.system"/,
  eval: /"(__builtin__|builtins)\.eval"/,
  getattr: /"(__builtin__|builtins)\.getattr"/,
  open: /"io\.open"/,
  'nested-load': /"_?pickle\.loads"/,
  state: /"__main__\.Stateful"/,
  subclass: /"__main__\.NamedDict"/,
  module: /"torch\.nn\.modules\.linear\.Linear"/,
  set: /"__builtin__\.set"|opcode 0x8f/,
  bytes: /"_codecs\.encode"|opcode 0x43/,
  complex: /"torch\.ComplexFloatStorage"/,
  sparse: /"torch\._utils\._rebuild_sparse_tensor"/,
  unsigned: /"torch\._utils\._rebuild_tensor_v3"/,
  device: /"torch\.device"/,
  dtype: /"torch\.float16"/,
  dotted: /"torch\._utils\._rebuild_tensor_v2\.__globals__"/,
  hub: /"torch\.hub\.load"/,
  'exec-wrapper': /"torch\.jit\.unsupported_tensor_ops\.execWrapper"/,
  'from-file': /"torch\.FloatStorage\.from_file"/,
  numpy: /"numpy\.testing\._private\.utils\.runstring"/,
}

test.each(names)('%s', async (name) => {
  const error: unknown = await openTorchFile(join(folder, name)).catch((caught: unknown) => caught)
  expect(error).toMatchObject({ name: 'AppError', code: 'bad_file' })
  expect((error as Error).message).toMatch(reasons[name.replace(/(-\d)?\.pt$/, '')])
  expect(existsSync('SEPIA-WAS-HERE')).toBe(false)
})

test('every reason has its file, and without code such a file is read', async () => {
  expect(new Set(names.map((name) => name.replace(/(-\d)?\.pt$/, '')))).toEqual(new Set(Object.keys(reasons)))
  expect([...(await openTorchFile(join(folder, 'harmless.pt'))).tensors.keys()]).toEqual(['clip_l', 'clip_g'])
})
