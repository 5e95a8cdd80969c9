PYTHON ?= python3

.PHONY: run test notebooks lowest docs clean

run: .venv/ready  # both notebooks in their quick profile, executed, as notebook and HTML, in out/
	rm -rf out/q1/shapes-quick-*  # start the quick run anew
	AIRL_PROFILE=quick .venv/bin/jupyter nbconvert --execute --to notebook --output-dir out q1.ipynb q2.ipynb
	.venv/bin/jupyter nbconvert --to html --output-dir out out/q1.ipynb out/q2.ipynb

test: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/python -m pytest

notebooks: .venv/ready  # the executed copies in docs/, after a change to a notebook
	.venv/bin/python docs/execute.py

lowest: .venv-lowest/ready  # the tests with the lowest versions that requirements.txt allows
	.venv-lowest/bin/python -m pytest

docs: .venv/ready  # pages of the API from the docstrings, in out/api/
	.venv/bin/pip install --quiet --editable '.[docs]'
	.venv/bin/pdoc --output-directory out/api airl airl.vit.plots airl.seg.plots airl.seg.seeds airl.seg.metrics

clean:
	rm -rf .venv .venv-lowest out

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable '.[test]'
	touch $@

.venv-lowest/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	sed 's/>=/==/' requirements.txt > .venv-lowest/lowest.txt
	.venv-lowest/bin/pip install --quiet --editable '.[test]' --constraint .venv-lowest/lowest.txt
	touch $@
