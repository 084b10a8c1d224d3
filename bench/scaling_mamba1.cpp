#include "scaling_model.hpp"

std::vector<scaling::Model> scaling::mamba1_models() { return models_of<mamba::Mamba1>(); }
