// Continues several prompts at once: batch MODEL PROMPT...

#include <fulgur/engine.h>

#include <iostream>
#include <vector>

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::cerr << "usage: batch MODEL PROMPT...\n";
    return 2;
  }
  fulgur::Engine engine(argv[1]);

  // All of them are on their way before the first is waited for.
  std::vector<fulgur::Generation> generations;
  for (int i = 2; i < argc; ++i) {
    generations.push_back(engine.submit({.prompt = engine.encode(argv[i]), .max_tokens = 16}));
  }

  // The first as it comes, the others when they have ended.
  while (const auto token = generations.front().next()) std::cout << token->text << std::flush;
  std::cout << '\n';
  for (size_t i = 1; i < generations.size(); ++i) std::cout << generations[i].wait().text << '\n';
  return 0;
} catch (const fulgur::Error& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
