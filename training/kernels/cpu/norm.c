/* BatchNorm in training mode with LeakyReLU, forward and the three ways back, each in two passes over its maps.
 *
 * Maps are float32, `rows` pixels of WIDTH channels. Sums are gathered over BLOCK pixels in float32, then in float64,
 * chunk by chunk and in a fixed order, so that results do not depend on the number of threads.
 */
#include <math.h>
#include <stdlib.h>

#include "lanes.h"

enum { BLOCK = 64, CHUNK = 1024, SUMS = 3 };

typedef struct {
    const float *raw, *output, *mean, *rstd, *scale;
    long rows;
    double slope;
} layer;

typedef double sums[SUMS][WIDTH];

static inline lanes at(const float *x, long row, int vector)
{
    return *(const lanes *)(x + row * WIDTH + vector * LANES);
}

static inline void put(float *x, long row, int vector, lanes value)
{
    *(lanes *)(x + row * WIDTH + vector * LANES) = value;
}

/* x where the block's output is positive, slope * x elsewhere. */
static inline lanes rectified(lanes x, lanes output, float slope)
{
    typedef int bits __attribute__((vector_size(4 * LANES)));
    bits positive = output > 0.0f;
    return (lanes)(((bits)x & positive) | ((bits)(slope * x) & ~positive));
}

/* to[0] = sum of x, to[1] = sum of x * normalised raw, to[2] = sum of x * other. With rectify, x is first passed through
 * LeakyReLU's derivative, in place. */
static inline __attribute__((always_inline)) void gather(const layer *at_layer, float *x, const float *other,
                                                         const int rectify, const int paired, sums to, int threads)
{
    const layer l = *at_layer;
    long chunks = (l.rows + CHUNK - 1) / CHUNK;
    sums *parts = calloc(chunks, sizeof(sums));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < chunks; chunk++) {
        long end = (chunk + 1) * CHUNK < l.rows ? (chunk + 1) * CHUNK : l.rows;
        for (long start = chunk * CHUNK; start < end; start += BLOCK) {
            long stop = start + BLOCK < end ? start + BLOCK : end;
            for (int v = 0; v < VECTORS; v++) {
                lanes mean = at(l.mean, 0, v), sum[SUMS] = {{0}};
                for (long row = start; row < stop; row++) {
                    lanes value = at(x, row, v);
                    if (rectify) {
                        value = rectified(value, at(l.output, row, v), (float)l.slope);
                        put(x, row, v, value);
                    }
                    sum[0] += value;
                    sum[1] += value * (at(l.raw, row, v) - mean);
                    if (paired)
                        sum[2] += value * at(other, row, v);
                }
                for (int s = 0; s < SUMS; s++)
                    for (int i = 0; i < LANES; i++)
                        parts[chunk][s][v * LANES + i] += sum[s][i];
            }
        }
    }
    for (int s = 0; s < SUMS; s++)
        for (int c = 0; c < WIDTH; c++) {
            to[s][c] = 0;
            for (long chunk = 0; chunk < chunks; chunk++)
                to[s][c] += parts[chunk][s][c];
        }
    for (int c = 0; c < WIDTH; c++)
        to[1][c] *= l.rstd[c];
    free(parts);
}

/* What one pass over the maps adds up, per channel. */
typedef struct {
    float by_x[WIDTH], by_raw[WIDTH], by_adjoint[WIDTH], by_tangent[WIDTH], constant[WIDTH];
} weights;

static inline __attribute__((always_inline)) void combine(const layer *at_layer, const float *x, const float *adjoint,
                                                          const float *tangent, const weights *w, const int second,
                                                          const int rectify, float *out, int threads)
{
    const layer l = *at_layer;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long start = 0; start < l.rows; start += BLOCK) {
        long stop = start + BLOCK < l.rows ? start + BLOCK : l.rows;
        for (int v = 0; v < VECTORS; v++) {
            lanes by_x = at(w->by_x, 0, v), by_raw = at(w->by_raw, 0, v), mean = at(l.mean, 0, v);
            lanes by_adjoint = at(w->by_adjoint, 0, v), by_tangent = at(w->by_tangent, 0, v);
            lanes constant = at(w->constant, 0, v);
            for (long row = start; row < stop; row++) {
                lanes value = by_x * at(x, row, v) + by_raw * (at(l.raw, row, v) - mean) + constant;
                if (second)
                    value += by_adjoint * at(adjoint, row, v) + by_tangent * at(tangent, row, v);
                put(out, row, v, rectify ? rectified(value, at(l.output, row, v), (float)l.slope) : value);
            }
        }
    }
}

/* scale * rstd * P(x), from the sums of x. */
static void projection(const layer *l, sums of_x, weights *w)
{
    for (int c = 0; c < WIDTH; c++) {
        double factor = (double)l->scale[c] * l->rstd[c];
        w->by_x[c] = factor;
        w->by_raw[c] = -factor * l->rstd[c] * of_x[1][c] / l->rows;
        w->constant[c] = -factor * of_x[0][c] / l->rows;
    }
}

/* Statistics of x, and LeakyReLU(BatchNorm(x)). mean, variance (biased), rstd: WIDTH numbers each. */
void normalise(const float *x, long rows, const float *scale, const float *shift, double eps, double slope, float *mean,
               float *variance, float *rstd, float *out, int threads)
{
    long chunks = (rows + CHUNK - 1) / CHUNK;
    double(*parts)[2][WIDTH] = calloc(chunks, sizeof *parts);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long chunk = 0; chunk < chunks; chunk++) {
        long begin = chunk * CHUNK, end = begin + CHUNK < rows ? begin + CHUNK : rows;
        for (long start = begin; start < end; start += BLOCK) {
            long stop = start + BLOCK < end ? start + BLOCK : end, before = start - begin, count = stop - start;
            for (int v = 0; v < VECTORS; v++) {
                lanes sum = {0}, squares = {0};
                for (long row = start; row < stop; row++)
                    sum += at(x, row, v);
                lanes centre = sum / (float)count;
                for (long row = start; row < stop; row++) {
                    lanes deviation = at(x, row, v) - centre;
                    squares += deviation * deviation;
                }
                /* Chan, Golub and LeVeque: means and squares of two sets give those of both. */
                for (int i = 0; i < LANES; i++) {
                    double *of_mean = &parts[chunk][0][v * LANES + i], *of_squares = &parts[chunk][1][v * LANES + i];
                    double difference = centre[i] - *of_mean;
                    *of_mean += difference * count / (before + count);
                    *of_squares += squares[i] + difference * difference * before * count / (before + count);
                }
            }
        }
    }
    weights w;
    for (int c = 0; c < WIDTH; c++) {
        double whole_mean = 0, squares = 0;
        for (long chunk = 0; chunk < chunks; chunk++) {
            long before = chunk * CHUNK, count = rows - before < CHUNK ? rows - before : CHUNK;
            double difference = parts[chunk][0][c] - whole_mean;
            whole_mean += difference * count / (before + count);
            squares += parts[chunk][1][c] + difference * difference * before * count / (before + count);
        }
        mean[c] = whole_mean;
        variance[c] = squares / rows;
        rstd[c] = 1 / sqrt(squares / rows + eps);
        w.by_x[c] = 0;
        w.by_raw[c] = scale[c] * rstd[c];
        w.constant[c] = shift[c];
    }
    free(parts);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long start = 0; start < rows; start += BLOCK) {
        long stop = start + BLOCK < rows ? start + BLOCK : rows;
        for (int v = 0; v < VECTORS; v++) {
            lanes centre = at(mean, 0, v), factor = at(w.by_raw, 0, v), constant = at(w.constant, 0, v);
            for (long row = start; row < stop; row++) {
                lanes value = factor * (at(x, row, v) - centre) + constant;
                put(out, row, v, rectified(value, value, (float)slope));
            }
        }
    }
}

/* Back through LeakyReLU and BatchNorm. gradient becomes that by BatchNorm's output, of_gradient its sums. */
void back(const layer *l, float *gradient, sums of_gradient, float *result, int threads)
{
    weights w;
    gather(l, gradient, NULL, 1, 0, of_gradient, threads);
    projection(l, of_gradient, &w);
    combine(l, gradient, NULL, NULL, &w, 0, 0, result, threads);
}

/* A tangent on its way forward through BatchNorm and LeakyReLU, its sums, and the sum of its product with adjoint. */
void along(const layer *l, float *tangent, const float *adjoint, sums of_tangent, float *result, int threads)
{
    weights w;
    gather(l, tangent, adjoint, 0, 1, of_tangent, threads);
    projection(l, of_tangent, &w);
    combine(l, tangent, NULL, NULL, &w, 0, 1, result, threads);
}

/* As `back`, and what the penalty adds through the statistics. by_scale, by_shift: WIDTH numbers each. */
void back_twice(const layer *l, float *gradient, const float *adjoint, sums of_adjoint, const float *tangent,
                sums of_tangent, float *result, float *by_scale, float *by_shift, int threads)
{
    weights w;
    sums of_gradient;
    double count = l->rows;
    gather(l, gradient, NULL, 1, 0, of_gradient, threads);
    for (int c = 0; c < WIDTH; c++) {
        double rstd = l->rstd[c];
        double adjoint_dot = of_adjoint[1][c], tangent_dot = of_tangent[1][c];
        double paired =
            of_tangent[2][c] - (of_adjoint[0][c] * of_tangent[0][c] + adjoint_dot * tangent_dot) / count;
        double by_adjoint = rstd / count * tangent_dot, by_tangent = rstd / count * adjoint_dot;
        double factor = l->scale[c] * rstd;
        by_scale[c] = of_gradient[1][c] + rstd * paired;
        by_shift[c] = of_gradient[0][c];
        double dot = of_gradient[1][c] - 2 * by_adjoint * adjoint_dot;
        double total = of_gradient[0][c] - by_adjoint * of_adjoint[0][c] - by_tangent * of_tangent[0][c];
        w.by_x[c] = factor;
        w.by_adjoint[c] = -factor * by_adjoint;
        w.by_tangent[c] = -factor * by_tangent;
        w.by_raw[c] = -factor * rstd * (dot + paired * rstd) / count;
        w.constant[c] = -factor * total / count;
    }
    combine(l, gradient, adjoint, tangent, &w, 1, 0, result, threads);
}
