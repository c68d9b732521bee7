/* The functions that native.py calls. Maps are float32, channels last: (images, height, width, WIDTH), or `rows` pixels
 * of WIDTH numbers; weights as torch has them, (outputs, inputs, 3, 3). Nothing depends on the number of threads. */
#ifndef CRITIC_H
#define CRITIC_H

/* WIDTH -> WIDTH channels, of x (images, height, width): `out` is two smaller each way. Backwards it is the gradient by
 * a convolution's input, of x, the one by its output: `out` is two larger. */
void convolve(const float *x, int images, int height, int width, int backwards, const float *weights, float *out,
              int threads);
/* The gradient by its weights, from its input (images, height, width) and the gradient by its output. */
void convolve_weights(const float *x, const float *gradient, int images, int height, int width, float *by_weights,
                      int threads);

/* A map of few channels anywhere in memory: steps are between images, channels, rows and pixels. */
typedef struct {
    const float *data;
    int images, channels, height, width;
    long image_step, channel_step, row_step, pixel_step;
} thin;

/* The same for 1 or 3 -> WIDTH channels. Turned, the weights are those of a convolution from WIDTH channels to
 * x->channels, of which this is the gradient by its input, x being padded with two zeros each way. */
void widen(const thin *x, int turned, const float *weights, float *out, int threads);
void widen_weights(const thin *x, int turned, const float *gradient, float *by_weights, int threads);
/* The same for WIDTH -> 1 or 3 channels; out: (images, height, width, outputs). */
void narrow(const float *x, int images, int height, int width, int outputs, int backwards, const float *weights,
            float *out, int threads);

/* BatchNorm and LeakyReLU of a block: its convolution's output, its own, and statistics. */
typedef struct {
    const float *raw, *output, *mean, *rstd, *scale;
    long rows;
    float slope;
} layer;

enum { SUMS = 3 }; /* [SUMS][WIDTH]: of a map, of its product with the normalised raw, of that with another map */

/* Statistics of x, the variance being the biased one, and LeakyReLU(BatchNorm(x)). */
void normalise(const float *x, long rows, const float *scale, const float *shift, double eps, float slope, float *mean,
               float *variance, float *rstd, float *out, int threads);
/* Back through LeakyReLU and BatchNorm. gradient becomes that by BatchNorm's output, of_gradient its sums. */
void back(const layer *l, float *gradient, double *of_gradient, float *result, int threads);
/* A tangent on its way forward through BatchNorm and LeakyReLU, and its sums, the last with adjoint. */
void along(const layer *l, float *tangent, const float *adjoint, double *of_tangent, float *result, int threads);
/* As back, and what the penalty adds through the statistics. by_scale, by_shift: WIDTH numbers each. */
void back_twice(const layer *l, float *gradient, const float *adjoint, const double *of_adjoint, const float *tangent,
                const double *of_tangent, float *result, float *by_scale, float *by_shift, int threads);

/* Spectral normalisation of a weight of `rows` outputs: weight / norm, the norm, and its gradient by the weight. */
void unit(const float *weight, int rows, int columns, float *quotient, float *norm, float *direction);

#endif
