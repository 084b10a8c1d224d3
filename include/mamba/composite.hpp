// Everything for the composite function task and its like: models, tasks, training.
#pragma once

#include <mamba/language_model.hpp>
#include <mamba/model/composite_model.hpp>
#include <mamba/train/optimizer.hpp>
