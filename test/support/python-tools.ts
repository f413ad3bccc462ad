import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** A program of the environment that .ci/run makes of python-requirements.txt. Throws how to make it. */
export function pythonTool(name: string): string {
  const program = fileURLToPath(new URL(`../../.venv-tests/bin/${name}`, import.meta.url))
  if (!existsSync(program))
    throw new Error(
      `There is no ${program}: python3 -m venv .venv-tests && ` +
        '.venv-tests/bin/pip install -r test/support/python-requirements.txt',
    )
  return program
}
