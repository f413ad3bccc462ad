import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import { pictureAnswer } from '../../src/http/picture-answer.ts'

it('pictures of every length come back whole', () => {
  const pictures = [0, 1, 2, 3, 24_575, 24_576, 24_577, 100_000].map((length) => randomBytes(length))
  const result = {
    images: pictures.map((_, seed) => ({ key: `jobs/${seed}`, seed })),
    encoding: 'png' as const,
    predictionTimeMs: 12.345,
    warnings: [],
  }
  const generate = JSON.parse(pictureAnswer('generate', result, pictures).toString('utf8')) as {
    images: { image_b64: string; seed: number }[]
    prediction_time_ms: number
  }
  expect(generate.images.map(({ image_b64: text }) => text)).toEqual(pictures.map((bytes) => bytes.toString('base64')))
  expect(generate.images.map(({ seed }) => seed)).toEqual(pictures.map((_, seed) => seed))
  expect(generate.prediction_time_ms).toBe(12.3)
  const predict = JSON.parse(pictureAnswer('predict', result, pictures).toString('utf8')) as object
  expect(predict).toEqual({
    completion: Object.fromEntries(pictures.map((bytes, index) => [`image_${index}`, bytes.toString('base64')])),
  })
})
