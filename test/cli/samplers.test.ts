import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { samplerNames, samplers } from '#diffusion/samplers.ts'
import { runCli } from '../../src/cli/program.ts'
import { resolveConfig } from '../../src/config.ts'

async function printed(...options: string[]): Promise<string> {
  let text = ''
  const stdout = new PassThrough().setEncoding('utf8').on('data', (part: string) => void (text += part))
  const terminal = { stdout, stderr: new PassThrough(), signal: new AbortController().signal }
  expect(await runCli(['samplers', ...options], terminal, () => resolveConfig({}))).toBe(0)
  return text
}

test('sepia samplers lists all of them with what they are', async () => {
  const lines = (await printed()).split('\n')
  expect(lines.slice(1).map((line) => line.split(' ')[0])).toEqual([...samplerNames, ''])
  expect(lines[1]).toMatch(/^DDIM +1 +first +1\.\.200 +DDIMScheduler$/)
  expect(lines.find((line) => line.startsWith('LCM '))).toMatch(/^LCM +1 +fresh +1\.\.50 +LCMScheduler$/)
  expect(lines.at(-2)).toMatch(
    /^DPM_PLUS_PLUS_SDE_KARRAS +2 +fresh +1\.\.200 +double +DPMSolverSDEScheduler, Karras sigmas$/,
  )
})

test('and as JSON', async () => {
  const listed = JSON.parse(await printed('--json')) as Record<string, unknown>
  expect(Object.keys(listed)).toEqual(samplerNames)
  expect(listed['DPM_2_KARRAS']).toEqual({
    diffusers: samplers.DPM_2_KARRAS.diffusers,
    order: 2,
    stochastic: false,
    premium: false,
    maxSteps: 200,
    karrasSigmas: true,
  })
})
