import { PassThrough } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import type { Progress } from '#worker/protocol.ts'
import { fitLine, ProgressNarrator, showProgress, type ProgressLine } from '../../src/cli/progress-bar.ts'

describe('the narrator', () => {
  const lines = (images: number, events: readonly [number, Progress][]): string[] => {
    const narrator = new ProgressNarrator(images, 0)
    return events.map(([ms, progress]) => {
      const { label, fraction, details } = narrator.tell(progress, ms)
      return [label, fraction, details.join(', ')].join('|')
    })
  }

  it('counts bytes', () => {
    const event = { phase: 'hash', component: 'unet', doneBytes: 2.6e9, totalBytes: 5.2e9 } as const
    expect(lines(1, [[0, event]])).toEqual(['reading UNet|0.5|2.42 GiB of 4.84 GiB'])
    expect(lines(1, [[0, { ...event, phase: 'prepare', doneBytes: 2e8, totalBytes: 4e8 }]])).toEqual([
      'preparing UNet|0.5|191 MiB of 381 MiB',
    ])
  })

  it('names what cannot be counted', () =>
    expect(
      lines(2, [
        [0, { phase: 'load', component: 'textEncoder2' }],
        [0, { phase: 'encode' }],
        [0, { phase: 'decode', image: 1 }],
      ]),
    ).toEqual(['loading text encoder 2||', 'encoding the prompt||', 'decoding picture 2/2||']))

  it('tells the pace of the steps and what is left of all pictures', () =>
    expect(
      lines(2, [
        [100, { phase: 'denoise', image: 0, step: 0, of: 2 }],
        [2100, { phase: 'denoise', image: 0, step: 1, of: 2 }],
        [6100, { phase: 'denoise', image: 0, step: 2, of: 2 }],
        [7000, { phase: 'decode', image: 0 }],
        [9000, { phase: 'denoise', image: 1, step: 0, of: 2 }],
        [12000, { phase: 'denoise', image: 1, step: 1, of: 2 }],
      ]),
    ).toEqual([
      'picture 1/2|0|step 0/2',
      'picture 1/2|0.5|step 1/2, 2.00 s/step, 6 s left',
      'picture 1/2|1|step 2/2, 3.00 s/step, 6 s left',
      'decoding picture 1/2||',
      'picture 2/2|0|step 0/2, 3.00 s/step, 6 s left',
      'picture 2/2|0.5|step 1/2, 3.00 s/step, 3 s left',
    ]))

  it('follows a refiner, which comes back to the first picture', () =>
    expect(
      lines(2, [
        [0, { phase: 'encodeStart' }],
        [1000, { phase: 'denoise', image: 0, step: 0, of: 2 }],
        [2000, { phase: 'denoise', image: 0, step: 1, of: 2 }],
        [2000, { phase: 'denoise', image: 1, step: 0, of: 2 }],
        [5000, { phase: 'denoise', image: 1, step: 1, of: 2 }],
        [9000, { phase: 'denoise', image: 0, step: 1, of: 2 }],
        [11000, { phase: 'denoise', image: 0, step: 2, of: 2 }],
      ]),
    ).toEqual([
      'encoding the picture||',
      'picture 1/2|0|step 0/2',
      'picture 1/2|0.5|step 1/2, 1.00 s/step, 3 s left',
      'picture 2/2|0|step 0/2, 1.00 s/step, 3 s left',
      'picture 2/2|0.5|step 1/2, 2.00 s/step, 4 s left',
      'picture 1/2|0.5|step 1/2, 2.00 s/step, 4 s left',
      'picture 1/2|1|step 2/2, 2.00 s/step, 2 s left',
    ]))
})

describe('a line', () => {
  const line: ProgressLine = {
    label: 'picture',
    fraction: 0.5,
    details: ['step 15/30', '1.82 s/step', '27 s left'],
  }
  it.each([
    [200, 'picture  ████████████░░░░░░░░░░░░  step 15/30, 1.82 s/step, 27 s left'],
    [56, 'picture  ██████░░░░░  step 15/30, 1.82 s/step, 27 s left'],
    [50, 'picture  step 15/30, 1.82 s/step, 27 s left'],
    [40, 'picture  ███░░░  step 15/30, 1.82 s/step'],
    [25, 'picture  step 15/30'],
    [18, 'picture  █████░░░░'],
    [4, 'pict'],
    [-1, ''],
  ])('of %i columns drops what is worth least first', (width, text) => {
    expect(fitLine(line, width)).toBe(text)
  })

  it('without a fraction has no bar', () =>
    expect(fitLine({ label: 'loading UNet', fraction: null, details: ['3 s'] }, 80)).toBe('loading UNet  3 s'))
})

describe('the display', () => {
  const collect = (isTTY: boolean, columns = 80) => {
    let text = ''
    const stderr = Object.assign(new PassThrough(), { isTTY, columns })
    stderr.setEncoding('utf8').on('data', (part: string) => void (text += part))
    return { terminal: { stdout: stderr, stderr, signal: new AbortController().signal }, text: () => text }
  }
  const steps: readonly Progress[] = [
    { phase: 'load', component: 'unet' },
    { phase: 'denoise', image: 0, step: 1, of: 2 },
    { phase: 'denoise', image: 0, step: 2, of: 2 },
  ]

  it('is silent in a log', async () => {
    const { terminal, text } = collect(false)
    using display = showProgress(terminal, 1, false)
    for (const progress of steps) display.update(progress)
    await sleep(300)
    expect(text()).toBe('')
  })

  it('writes a line a phase in a log with --verbose', async () => {
    const { terminal, text } = collect(false)
    using display = showProgress(terminal, 1, true)
    for (const progress of steps) display.update(progress)
    await sleep(10)
    expect(text()).toMatch(/^loading UNet\npicture {2}step 1\/2, .*\npicture {2}step 2\/2, .*\n$/)
  })

  it('keeps within a narrow terminal, and leaves its settings as they are', async () => {
    const { terminal, text } = collect(true, 40)
    {
      using display = showProgress(terminal, 16, false)
      for (const progress of steps) display.update(progress)
      await sleep(300)
    }
    // oxlint-disable-next-line no-control-regex
    const drawn = text().split(/\x1b(?:[78]|\[\d*[GK])/)
    expect(drawn.filter((part) => part.length >= 40)).toEqual([])
    expect(text()).toMatch(/picture 1\/16 {2}step 2\/2, [\d.]+ s\/step/)
    expect(text()).not.toContain('\x1b[?')
  })

  it('redraws one line of a terminal, makes room for other text and goes away', async () => {
    const { terminal, text } = collect(true)
    {
      using display = showProgress(terminal, 1, false)
      for (const progress of steps) display.update(progress)
      await sleep(300)
      expect(text()).toMatch(/picture {2}█{24} {2}step 2\/2, [\d.]+ s\/step, 0 s left/)
      expect(text()).not.toContain('\n')
      display.interrupt(() => terminal.stderr.write('in between\n'))
    }
    await sleep(10)
    const drawn = text()
    await sleep(300)
    expect(text()).toBe(drawn)
    expect(drawn.slice(drawn.indexOf('in between\n'))).toMatch(/picture .*step 2\/2/s)
  })
})
