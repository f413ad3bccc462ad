import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** A program of the environment that .ci/tools makes of python-requirements.txt. Throws how to make it. */
export function pythonTool(name: string): string {
  const program = fileURLToPath(new URL(`../../.venv-tests/bin/${name}`, import.meta.url))
  if (!existsSync(program)) throw new Error(`There is no ${program}; bash .ci/tools makes it`)
  return program
}
