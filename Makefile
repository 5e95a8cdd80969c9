PYTHON ?= python3
# A matching pair: pip alone may pair the newest torchvision with another torch.
TORCH  ?= torch==2.13.0 torchvision==0.28.0

.PHONY: run test clean

run: .venv/ready
	rm -rf out/q1/shapes-quick-*  # start the quick run anew
	AIRL_PROFILE=quick .venv/bin/jupyter nbconvert --execute --to notebook --output-dir out q1.ipynb q2.ipynb
	.venv/bin/jupyter nbconvert --to html --output-dir out out/q1.ipynb out/q2.ipynb

test: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

clean:
	rm -rf .venv out

# PyPI's torchvision for Linux is linked against CUDA. Beside a CPU-only torch its C++ half does not load, and then
# `import torchvision` fails for want of two operator declarations; nothing here calls either, so declare them.
define DECLARE_OPS
if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou) -> Tensor")
endef
export DECLARE_OPS

.venv/ready: requirements.txt pyproject.toml Makefile
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet $(TORCH)
	.venv/bin/pip install --quiet --editable '.[test]'
	.venv/bin/python -c "import torchvision" 2>&1 | grep -q "operator torchvision::nms does not exist" && \
		echo "$$DECLARE_OPS" >> "$$(echo .venv/lib/python3*/site-packages/torchvision/extension.py)" || true
	.venv/bin/python -c "import torchvision"
	touch $@
